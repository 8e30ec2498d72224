"""`python -m podium.grpc_oip.generate [--check]`: stubs from the protocol file. Needs grpcio-tools."""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("open_inference_pb2.py", "open_inference_pb2.pyi")


def generated() -> dict[str, bytes]:
    """The stubs as they should be, by file name."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"-I{HERE}", f"--python_out={folder}", f"--pyi_out={folder}", "open_inference.proto"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
        return {name: (Path(folder) / name).read_bytes() for name in NAMES}


def main() -> None:
    """Writes the stubs, or exits 1 where they differ."""
    for name, content in generated().items():
        if "--check" not in sys.argv:
            (HERE / name).write_bytes(content)
        elif (HERE / name).read_bytes() != content:
            sys.exit(f"{name} is not what open_inference.proto gives; run python -m podium.grpc_oip.generate")


if __name__ == "__main__":
    main()
