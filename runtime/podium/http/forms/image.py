"""Images for models that take pixels. Run in the codec process only: decoders of images have had holes."""

import io
from typing import Any

import numpy as np

from podium.errors import InvalidInput
from podium.http.forms.document import Tensors
from podium.http.forms.sole import sole_input
from podium.http.forms.wishes import NamedRequest
from podium.ipc.tensor import Tensor
from podium.serving.revisions.contract import Contract, described
from podium.serving.revisions.named_tensors import text_tensor
from podium_crds.tensors import DType, TensorSpec

MAX_PIXELS = 16 << 20
MAX_SIDE = 16384
FORMATS = ("PNG", "JPEG", "WEBP")
CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def parse_image(raw: bytes, contract: Contract) -> tuple[Tensors, NamedRequest]:
    """One picture for the one input: UINT8 [batch, height, width, channels], upright; or, for BYTES, the file as it is.

    Its size is judged before a pixel is decoded. Raises InvalidInput.
    """
    name, spec = sole_input(contract)
    if spec.dtype is DType.BYTES:
        return {name: text_tensor([raw], (1,) * len(spec.shape))}, NamedRequest()
    mode = CHANNELS.get(spec.shape[-1])
    if spec.dtype is not DType.UINT8 or len(spec.shape) != 4 or mode is None:
        raise InvalidInput(f"images are for an input UINT8 [-1, height, width, 1, 3 or 4]; this is {described(spec)}")
    tensors = {name: Tensor.from_array(_pixels(raw, mode, spec))}
    contract.check(tensors)
    return tensors, NamedRequest()


def _pixels(raw: bytes, mode: str, spec: TensorSpec) -> Any:
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as judged:
            _check(judged, spec)
            judged.verify()
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert(mode)).reshape(1, upright.height, upright.width, len(mode))
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"a larger image than one of {MAX_PIXELS} pixels; expected at most that") from error
    except Exception as error:  # decoders raise whatever they come across
        raise InvalidInput(f"the body is not a {', '.join(FORMATS)} image ({type(error).__name__})") from error


def _check(image: Any, spec: TensorSpec) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InvalidInput(
            f"an image of {width} by {height} pixels; expected at most {MAX_PIXELS} and {MAX_SIDE} a side"
        )
    if getattr(image, "n_frames", 1) != 1:
        raise InvalidInput(f"an image of {image.n_frames} frames; expected one")
    if image.mode not in PLAIN_MODES:
        raise InvalidInput(f"an image of mode {image.mode}; expected 8 bits a channel for {described(spec)}")
