"""The training methods by name: every class of this folder that has one; nothing is listed."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SAMAutoSegLib.errors import SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.methods.method import Method

_PACKAGE = "SAMAutoSegLib.methods"


def method_names() -> tuple[str, ...]:
    """The names of all methods, in the order of their files; imports none of them."""
    return tuple(_places(Path(__file__).parent))


def method_named(name: str) -> type[Method]:
    """The method; `SAMAutoSegError` if there is none of that name."""
    places = _places(Path(__file__).parent)
    if name not in places:
        raise SAMAutoSegError(f"method {name!r}: expected one of {', '.join(places)}")
    module, class_name = places[name]
    kind: Any = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), class_name)
    return kind


@cache
def _places(folder: Path) -> dict[str, tuple[str, str]]:
    """Module and class of every method by its name, read from the sources.

    A method is a class with `name: ClassVar[str] = "..."` in its body. Sources are read and not
    imported, since the command line tells the names before it imports torch.

    Raises:
        ValueError: two methods of one name.
    """
    places: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or (name := _name_of_method(node)) is None:
                continue
            if name in places:
                raise ValueError(f"method {name!r} is in {places[name][0]}.py and in {path.name}")
            places[name] = (path.stem, node.name)
    return places


def _name_of_method(node: ast.ClassDef) -> str | None:
    for entry in node.body:
        match entry:
            case ast.AnnAssign(
                target=ast.Name(id="name"),
                annotation=ast.Subscript(value=ast.Name(id="ClassVar")),
                value=ast.Constant(value=str(name)),
            ):
                return name
    return None
