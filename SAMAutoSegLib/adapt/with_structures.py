"""A model that goes on from another one and segments other structures too."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import PIXELS, AdaptedModel

# The head whose tensors are known by class: rows of the tokens, and a hypernetwork each.
HEAD_BY_CLASS = "class-tokens"

_ROWS = ("decoder.mask_tokens.weight", "pixels.output.weight", "pixels.output.bias")
_HYPERNETWORK = re.compile(r"(decoder\.output_hypernetworks_mlps\.)(\d+)(\..+)")


def take_over(
    model: AdaptedModel, source: AdaptedModel, known: Sequence[int | None], pixels: bool = True
) -> None:
    """Give a new model what another one of the same adaptation has learned.

    Args:
        model: its prompt embedding, low-rank updates and upscaling become the source's; so do token
            and hypernetwork of the background and of every structure that the source knows. Those
            of a new structure stay as they are. In the pixel branch it starts as what it was until
            now, background.
        source: with the head `HEAD_BY_CLASS`, unless it has the same structures in the same order.
        known: for every structure of the model its number in the source, from 0; None if new.
        pixels: take over the pixel branch too.
    """
    state = model.learned_state()
    before = {
        name: value
        for name, value in source.learned_state().items()
        if pixels or not name.startswith(PIXELS)
    }
    classes = [0, *(None if number is None else number + 1 for number in known)]
    if classes == list(range(source.classes)):
        model.load_learned_state({**state, **before})
        return
    assert source.adaptation.head == model.adaptation.head == HEAD_BY_CLASS
    with torch.no_grad():
        for name in state:
            if name in _ROWS:
                _take_rows(name, state[name], before, classes)
            elif found := _HYPERNETWORK.fullmatch(name):
                former = classes[int(found[2])]
                if former is not None:
                    state[name] = before[f"{found[1]}{former}{found[3]}"]
            elif name in before:
                state[name] = before[name]
    model.load_learned_state(state)


def _take_rows(
    name: str, rows: Tensor, before: dict[str, Tensor], classes: Sequence[int | None]
) -> None:
    """Fill `rows`, one for each class; the source may have no pixel branch."""
    if name not in before:
        return
    for n, former in enumerate(classes):
        if former is not None:
            rows[n] = before[name][former]
        elif name.startswith(PIXELS):
            rows[n] = before[name][0]
