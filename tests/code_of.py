"""Which code a stage runs, read from its imports: what dvc.yaml has to list as the stage's dependencies."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import secateur
from secateur.allocation import ALLOCATIONS
from secateur.methods import METHODS
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS

ROOT = Path(__file__).parents[1]
LAZY = re.compile(r"(secateur(?:\.\w+)+):\w+")  # an entry of a registry, imported when its name is asked for


def code_of(stage: Path) -> set[str]:
    """Files, and folders for whole sub-packages, that `stage` reaches, relative to the project.

    Followed are imports anywhere in a file (stages import late), except those for type checkers; the names that `secateur`
    itself hands out; and registry entries. `__init__` files of the top packages hold no code of their own.
    """
    seen: set[Path] = set()
    todo = [stage]
    while todo:
        if (file := todo.pop()) not in seen:
            seen.add(file)
            todo += _imported(file)
    top = {ROOT / package / "__init__.py" for package in ("secateur", "stages", "pipelines")}
    return {unit for file in seen - top if (unit := _unit(file))}


# Sub-packages with one file a name: a row depends on its own name's file, so that adding a method re-runs no other row.
BY_NAME = {
    "secateur/allocation": (ALLOCATIONS, "${item.rule}.py"),
    "secateur/methods": (METHODS, "${item.method}.py"),
    "secateur/recovery": (UPDATES, "${item.update}.py"),
    "secateur/refinement": (REFINEMENTS, "${item.refinement}.py"),
}


def _unit(file: Path) -> str | None:
    folder = "/".join(file.relative_to(ROOT).parts[:2])
    if folder not in BY_NAME:
        return folder
    if file.name == "__init__.py":  # the list of names: it decides no number
        return None
    names, pattern = BY_NAME[folder]
    return f"{folder}/{pattern if file.stem in names else file.name}"


def _imported(file: Path) -> Iterator[Path]:
    for node in _nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            for alias in node.names:
                yield from _files(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "secateur":
            yield from _files(f"secateur.{node.attr}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (lazy := LAZY.fullmatch(node.value)):
            yield from _files(lazy[1])


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, less the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from _nodes(child)


def _files(name: str) -> Iterator[Path]:
    """The files that importing `name` (a module, or a module and a name in it) executes below its top package."""
    package, *parts = name.split(".")
    if package not in ("secateur", "stages", "pipelines"):
        return
    if package == "secateur" and len(parts) == 1 and parts[0] in secateur._HOMES:
        parts = secateur._HOMES[parts[0]].split(".")[1:]
    for end in range(1, len(parts) + 1):
        path = ROOT.joinpath(package, *parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                yield file
