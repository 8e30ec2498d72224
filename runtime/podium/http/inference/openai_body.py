"""What of an OpenAI request's body is read before an engine sees it: who is asked, and how much is asked for.

Everything else in it is the engine's to understand. The bounds are on what one request could take from all others: a
sequence is a request of its own to the engine, and a grammar is compiled where every stream of a worker waits for it.
"""

import msgspec

from podium.errors import InvalidInput

MAX_MODEL_CHARS = 512
MAX_SEQUENCES = 256
"""Answers that one request may ask for: each is a request of its own to the engine."""
MAX_GRAMMAR_BYTES = 64 << 10
"""Of what an answer must look like (a schema, choices, an expression). vLLM compiles this much in a second or two, and
ten times as much in minutes."""
MAX_TOOLS_BYTES = 256 << 10
_NULL = msgspec.Raw(b"null")


class _Asked(msgspec.Struct):
    """What routing and bounds need of a body."""

    model: str
    prompt: msgspec.Raw = _NULL
    n: object = None
    response_format: msgspec.Raw = _NULL
    structured_outputs: msgspec.Raw = _NULL
    tools: msgspec.Raw = _NULL


_DECODER = msgspec.json.Decoder(_Asked)
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_BOUNDS = (
    ("response_format", MAX_GRAMMAR_BYTES),
    ("structured_outputs", MAX_GRAMMAR_BYTES),
    ("tools", MAX_TOOLS_BYTES),
)


def asked_model(raw: bytes) -> str:
    """The `model` of a body that asks for no more than one request may. Raises InvalidInput."""
    try:
        asked = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f'the body must be a JSON object with "model", the name of a model: {error}') from error
    except RecursionError as error:
        raise InvalidInput("the body is nested too deeply; expected some hundred levels at most") from error
    if not 0 < len(asked.model) <= MAX_MODEL_CHARS:
        raise InvalidInput(f'"model" has {len(asked.model)} characters; expected a name of at most {MAX_MODEL_CHARS}')
    sequences = _prompts(asked.prompt) * _times(asked.n)
    if sequences > MAX_SEQUENCES:
        raise InvalidInput(f"{sequences:g} sequences in one request (prompts x n); expected at most {MAX_SEQUENCES}")
    for name, most in _BOUNDS:
        if (size := memoryview(getattr(asked, name)).nbytes) > most:
            raise InvalidInput(f'"{name}" has {size} bytes; expected at most {most}')
    return asked.model


def _times(n: object) -> float:
    """`n` as an engine may read it: pydantic takes a number also from its text, and 3.0 for 3."""
    if not isinstance(n, (int, float, str)):
        return 1
    try:
        times = float(n)
    except OverflowError:
        return float("inf")
    except ValueError:
        return 1  # the engine refuses it
    return times if times >= 1 else 1


def _prompts(raw: msgspec.Raw) -> int:
    """How many prompts that is: a list of texts or of token lists is several, a list of tokens is one."""
    if bytes(memoryview(raw)[:1]) != b"[":
        return 1
    elements = _ELEMENTS.decode(raw)
    return len(elements) if elements and bytes(memoryview(elements[0])[:1]) in (b'"', b"[", b"{") else 1
