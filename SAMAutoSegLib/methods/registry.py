"""The training methods by name; a new one is a file of its own and a line here."""

from __future__ import annotations

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.blo_sam import BLOSAM
from SAMAutoSegLib.methods.joint import Joint
from SAMAutoSegLib.methods.method import Method

METHODS: dict[str, type[Method]] = {method.name: method for method in (BLOSAM, Joint)}


def method_named(name: str) -> type[Method]:
    """The method; `SAMAutoSegError` if there is none of that name."""
    if name not in METHODS:
        raise SAMAutoSegError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    return METHODS[name]
