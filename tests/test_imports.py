"""No two modules import each other."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("constitution", "hardware", "judge_service", "rlaif")


def module_files(root: Path, packages: tuple[str, ...]) -> dict[str, Path]:
    """Dotted name → file of every module; a package is its __init__."""
    files = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {_dotted(path.relative_to(root)): path for path in files}


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file imports: at its top, inside functions and under TYPE_CHECKING.

    `from package import name` counts as the module package.name where there is one, and as the
    package otherwise.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _imported_from(node, name, path)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules else base)
    return found & modules.keys() - {name}


def _imported_from(node: ast.ImportFrom, name: str, path: Path) -> str:
    """The absolute module of `from … import`, also of a relative one."""
    if not node.level:
        return node.module or ""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def mutual_imports(root: Path, packages: tuple[str, ...]) -> list[str]:
    modules = module_files(root, packages)
    graph = {name: imports(name, path, modules) for name, path in modules.items()}
    return sorted(
        f"{one} <-> {other}"
        for one, imported in graph.items()
        for other in imported
        if one < other and one in graph[other]
    )


def test_no_two_modules_import_each_other() -> None:
    pairs = ", ".join(mutual_imports(ROOT, PACKAGES))
    assert not pairs, f"modules that import each other: {pairs}; move what both need to a third"


def test_imports_in_functions_and_under_type_checking_count(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("from pack import a")
    (package / "a.py").write_text("def f():\n    from pack import b\n    import pack.c\n")
    (package / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import f\n"
    )
    (package / "c.py").write_text("from pack import b")
    (package / "d.py").write_text("from .inner import a")
    assert mutual_imports(tmp_path, ("pack",)) == ["pack.a <-> pack.b"]
