"""Generates judge_service/v1/ from judge.proto; `--check` fails when the committed stubs are stale.

Stubs come from grpcio-tools 1.71.2: their gencode (5.29) runs on every protobuf from 5.29 on; newer
tools would raise that minimum for every client. google/rpc/status.proto is an unchanged copy of
Google's, for the compilers of other languages. Python's stub of it is in googleapis-common-protos,
so none is generated.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent
CONTRACT = "judge_service/v1/judge.proto"
STUBS = ("judge_pb2.py", "judge_pb2.pyi", "judge_pb2_grpc.py")
TOOLS = "1.71.2"


def generate(out: Path) -> None:
    """Write the stubs under `out`/judge_service/v1."""
    from grpc_tools import protoc

    installed = metadata.version("grpcio-tools")
    if installed != TOOLS:
        raise SystemExit(
            f"error: wrong version of grpcio-tools: {installed}; run pip install "
            f"grpcio-tools=={TOOLS}"
        )
    includes = [PROTOS, resources.files("grpc_tools") / "_proto"]  # ours, and google/protobuf
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", *(f"-I{path}" for path in includes), *outputs, CONTRACT]):
        raise SystemExit(f"error: protos/{CONTRACT} does not compile; fix what protoc reports")


def stale() -> list[str]:
    """The committed stubs that differ from freshly generated ones."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = Path(folder, "judge_service/v1"), ROOT / "judge_service/v1"
        _, differing, missing = filecmp.cmpfiles(fresh, committed, STUBS, shallow=False)
        return differing + missing


def main() -> None:
    """Write the stubs, or with --check exit with status 1 when the committed ones are stale."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    if not arguments.parse_args().check:
        generate(ROOT)
    elif files := stale():
        sys.exit(f"error: stale stubs: {', '.join(files)}; run `make proto` and commit the result")


if __name__ == "__main__":
    main()
