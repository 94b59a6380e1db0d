"""Where a model comes from, as its card tells: its own training, and those before it."""

from collections.abc import Iterator
from typing import Any

Provenance = dict[str, Any]


def origins(provenance: Provenance | None) -> Iterator[Provenance]:
    """The provenance of a model, then those of the models that it went on from, the last first."""
    while isinstance(provenance, dict) and provenance:
        yield provenance
        source = provenance.get("source")
        provenance = source.get("provenance") if isinstance(source, dict) else None


def data_of(provenance: Provenance | None) -> Provenance:
    """The first of the `origins` that names its data and their license; empty if none does."""
    return next((origin for origin in origins(provenance) if "data" in origin), {})
