"""Whether what the user reads can be translated."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "SAMAutoSeg" / "SAMAutoSegScene"

SENTENCE = re.compile(r"[a-z]+ [a-z]+ [a-z]+")


def sentences(node: ast.AST) -> Iterator[str]:
    """Text that is neither translated, nor a docstring, nor told to programmers."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "IndexError"):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    text = node.value if isinstance(node, ast.Constant) else None
    if isinstance(text, str) and SENTENCE.search(text):
        yield text
    for child in ast.iter_child_nodes(node):
        yield from sentences(child)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_every_sentence_can_be_translated(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(sentences(tree)) == []


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_what_is_translated_is_whole_when_it_is_looked_up(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_":
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}"
