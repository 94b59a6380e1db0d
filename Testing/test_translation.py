"""Whether what the user of the Slicer module reads can be translated."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[1] / "SAMAutoSeg"

FILES = sorted(
    path
    for path in [
        MODULE / "SAMAutoSeg.py",
        *MODULE.glob("SAMAutoSegPanels/*.py"),
        *MODULE.glob("SAMAutoSegScene/*.py"),
    ]
    if path.name != "SelfTest.py"  # what a tester reads
)

SENTENCE = re.compile(r"[a-z]+ [a-z]+ [a-z]+")

# Errors of this kind are for programmers, or are caught before a user sees them.
NOT_SHOWN = ("IndexError", "ValueError")

NAMES = {
    "Fill between slices",  # an effect of Slicer's editor
    "SAMAutoSeg adapted model",  # a file format
}

every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(MODULE).as_posix()
)


def sentences(node: ast.AST) -> Iterator[str]:
    """Text that is neither translated, nor a docstring, nor a name, nor told to programmers."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", *NOT_SHOWN):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    text = node.value if isinstance(node, ast.Constant) else None
    if isinstance(text, str) and SENTENCE.search(text) and text not in NAMES:
        yield text
    for child in ast.iter_child_nodes(node):
        yield from sentences(child)


def test_every_folder_of_the_module_is_looked_at() -> None:
    folders = {path.parent.name for path in FILES}
    assert folders == {"SAMAutoSeg", "SAMAutoSegPanels", "SAMAutoSegScene"}


@every_file
def test_every_sentence_can_be_translated(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(sentences(tree)) == []


@every_file
def test_what_is_translated_is_whole_when_it_is_looked_up(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_":
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}"
