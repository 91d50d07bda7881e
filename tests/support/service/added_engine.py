"""A server command in a process of its own, with an engine that was added from outside.

The engine is a FAKE: it answers from FakeEngine, without a model. It stands in one file of a
package that is written for the test, and is registered by one line, as a user's would be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.service.server_process import ENDS_WITHIN, ROOT

NAME = "fake-added"
ENGINE_FILE = f'''
"""A fake engine for a test: it reads no model."""

from judge_service.engines import ENGINES
from tests.support.fakes import FakeEngine


class AddedEngine(FakeEngine):
    def __init__(self, settings):
        super().__init__(max_context_tokens=settings.max_context_tokens or 2048)


ENGINES[{NAME!r}] = AddedEngine
'''


@contextmanager
def started(folder: Path, program: str, *arguments: str) -> Iterator[str]:
    """The address of a server: `program` runs with these arguments once the engine is registered.

    Ends it by SIGTERM, and asserts that it ended well.
    """
    package = folder / "our_engines"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fake.py").write_text(ENGINE_FILE)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RLAIF_SERVE_")
    }
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", f"import our_engines.fake\n{program}", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    ) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()
            try:
                rest, _ = process.communicate(timeout=ENDS_WITHIN)
            finally:
                process.kill()
    assert process.returncode == 0, rest


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        if line.startswith("serving on "):
            return line.removeprefix("serving on ").strip()
        output.append(line)
    raise AssertionError(f"the server ended before it served:\n{''.join(output)}")
