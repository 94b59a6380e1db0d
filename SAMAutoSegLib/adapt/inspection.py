"""What a checkpoint file is, of a SAM or of what was learned on top of one, in plain words."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegLib.provenance import data_of
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.backbone import Family
from SAMAutoSegLib.sam.checkpoint import (
    Checkpoint,
    Recognition,
    input_told,
    locate,
    read_checkpoint,
    recognize,
)


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint file is, for `models inspect`: JSON values, `summary` in plain words.

    Raises:
        SAMAutoSegError: as `read_checkpoint`.
    """
    source = locate(path)
    checkpoint = read_checkpoint(source)
    found = recognize(checkpoint.tensors)
    card = _card(checkpoint.header, source)
    if card:
        base = catalog.find_by_sha256(card.get("backbone_sha256", ""))
        found = replace(
            found,
            words=f"an adapted model ({card.get('method')} on {card.get('backbone')})",
            family=cast(Family, base.family) if base else None,
            side=card.get("input", {}).get("side"),
            adapted=True,
            missing=(),
            unexpected=(),
        )
    digest = sha256_of_file(source)
    entry = catalog.find_by_sha256(digest)
    structures = _structures(checkpoint, card)
    told = input_told(checkpoint)
    usual = told.normalization if told else entry.normalization if entry else found.normalization
    return {
        "path": str(source),
        "bytes": source.stat().st_size,
        "sha256": digest,
        "name": entry.name if entry else None,
        "license": entry.license if entry else data_of(card.get("provenance")).get("data_license"),
        "words": found.words,
        "family": found.family,
        "side": found.side,
        "sides": [] if card else list(found.sides),
        "normalization": card.get("input", {}).get("normalization")
        if card
        else usual
        if found.family
        else None,
        "adapted": found.adapted,
        "structures": structures,
        "tensors": len(checkpoint.tensors),
        "values": sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        "missing": list(found.missing),
        "unexpected": list(found.unexpected),
        "header": checkpoint.header,
        "summary": _summary(found, structures, entry),
    }


def _card(header: Mapping[str, str], source: Path) -> dict[str, Any]:
    """The model card in the header of an adapted model's file, empty where there is none."""
    try:
        card = json.loads(header.get("card", "{}"))
    except json.JSONDecodeError:
        return {}
    if not isinstance(card, dict):
        return {}
    structures = card.get("structures", [])
    if (
        not isinstance(card.get("input", {}), dict)
        or not isinstance(structures, list)
        or not all(isinstance(one, dict) and "name" in one for one in structures)
    ):
        raise SAMAutoSegError(f"{source} is damaged: the model's header is malformed; get it anew")
    return card


def _structures(checkpoint: Checkpoint, card: dict[str, Any]) -> list[str]:
    """Names of the structures on an adapted file's card; numbers where it has none."""
    if "structures" in card:
        return [str(structure["name"]) for structure in card["structures"]]
    tokens = checkpoint.tensors.get("mask_decoder.mask_tokens.weight")
    learned = any(name.startswith(("sa_a_", "w_a_")) for name in checkpoint.tensors)
    if learned and tokens is not None:
        return [f"structure {n}" for n in range(1, tokens.shape[0])]
    return []


def _summary(found: Recognition, structures: list[str], entry: catalog.CatalogEntry | None) -> str:
    words = f"This is {found.words}"
    words += f", known as {entry.name} ({entry.license})." if entry else "."
    if found.adapted:
        words += " It holds what was learned on top of a backbone."
    if structures:
        words += f" It segments {', '.join(structures)}."
    if found.family and not structures:
        if found.missing or found.unexpected:
            words += (
                f" As a whole SAM it lacks {len(found.missing)} tensors and has "
                f"{len(found.unexpected)} unexpected ones."
            )
        else:
            words += " It is a whole SAM: nothing is missing, nothing unexpected."
        if entry is None:
            words += " The file is not in the catalogue: its origin and license are not known."
    return words
