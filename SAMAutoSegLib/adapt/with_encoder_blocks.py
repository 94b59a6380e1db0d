"""A model that goes on from another one and adapts more of the encoder."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.sam.backbone import Backbone

# Of the encoder's update where the head has none that it could agree with.
_RANK = 4


def with_encoder_blocks(source: AdaptedModel, backbone: Backbone, blocks: int) -> AdaptedModel:
    """A model with the source's function, and low-rank updates in at least the last `blocks`.

    Updates that the source has are taken over; new ones start without effect.

    Raises:
        SAMAutoSegError: the encoder has fewer such blocks.
    """
    before = source.adaptation
    count = max(blocks, before.encoder_blocks)
    rank = before.lora_rank
    if before.head != "class-tokens" and not before.encoder_blocks:
        rank = _RANK  # belongs to the encoder alone
    adaptation = replace(before, encoder_blocks=count, lora_rank=rank)
    model = AdaptedModel(backbone, source.classes, adaptation)
    added = count - before.encoder_blocks

    def renamed(name: str) -> str:
        # Blocks are counted from the first adapted one.
        return re.sub(
            r"^tail\.blocks\.(\d+)", lambda found: f"tail.blocks.{int(found[1]) + added}", name
        )

    known = {renamed(name): value for name, value in source.learned_state().items()}
    with torch.no_grad():
        model.load_learned_state({**model.learned_state(), **known})
    return model.eval()
