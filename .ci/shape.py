"""The shape of the code: files per folder, sizes of functions and files, share of comments.

    python .ci/shape.py [REVISION]      of a git revision; without one, of the working tree

Counts tracked Python files; generated ones (judge_service/v1) are left out. A function's lines are
those from `def` to its last one, its docstring included; a comment line is one that starts with #.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from statistics import median

TOPS = ("constitution", "hardware", "judge_service", "rlaif", "tests", "benchmarks")


def git(*arguments: str) -> str:
    """The standard output of a git command. Raises CalledProcessError when it fails."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def sources(revision: str | None) -> dict[str, str]:
    """Path → text of every Python file of ours."""
    if revision is None:
        listed = git("ls-files", "*.py").split()
        texts = {path: Path(path).read_text(encoding="utf-8") for path in listed}
    else:
        listed = git("ls-tree", "-r", "--name-only", revision).split()
        texts = {p: git("show", f"{revision}:{p}") for p in listed if p.endswith(".py")}
    return {
        path: text
        for path, text in texts.items()
        if path.split("/")[0] in TOPS and "judge_service/v1/" not in path
    }


def function_lines(text: str) -> Iterator[int]:
    """The number of lines of each function in a source text, nested ones included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1


def main() -> None:
    """Print a row per top-level folder."""
    revision = sys.argv[1] if len(sys.argv) > 1 else None
    texts = sources(revision)
    folders = Counter(str(PurePosixPath(path).parent) for path in texts)
    print(f"{'top folder':14} files folders most/folder longest file  functions median longest  #")
    for top in TOPS:
        own = {path: text for path, text in texts.items() if path.split("/")[0] == top}
        inside = {folder: n for folder, n in folders.items() if folder.split("/")[0] == top}
        if not own:
            continue
        functions = [lines for text in own.values() for lines in function_lines(text)]
        lines = [line for text in own.values() for line in text.splitlines()]
        comments = sum(line.lstrip().startswith("#") for line in lines)
        print(
            f"{top:14} {len(own):5} {len(inside):7} {max(inside.values()):11} "
            f"{max(text.count(chr(10)) for text in own.values()):12} {len(functions):10} "
            f"{median(functions):6.0f} {max(functions):7}  {comments / len(lines):.1%}"
        )


if __name__ == "__main__":
    main()
