"""A SAM that keeps its prompts, with low-rank updates in the last blocks of its encoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from SAMAutoSegLib.adapt.adapted_model import Adaptation
from SAMAutoSegLib.adapt.lora import LoRAQueryValue, add_lora_to_blocks
from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import INPUT_HEADER


class PromptedModel(nn.Module):
    """Features of the frozen front of the encoder and prompts to masks, as SAM gives them.

    Only the low-rank updates are learned; prompt encoder and mask decoder are the backbone's own,
    frozen (WeSAM, arXiv 2312.03502).

    Args:
        backbone: any SAM on the fast path; it is not changed.
        blocks: how many of the encoder's last blocks are adapted.
        rank: of the updates.
    """

    position: Tensor

    def __init__(self, backbone: Backbone, blocks: int, rank: int = 4) -> None:
        super().__init__()
        self.adaptation = Adaptation(rank, blocks)
        self.tail = backbone.tunable_tail(blocks)
        add_lora_to_blocks(self.tail, rank)
        position = backbone.prompt_encoder.get_dense_pe().detach()
        self.register_buffer("position", position, persistent=False)
        self.to(backbone.device)

    def forward(
        self, features: Tensor, sparse: Tensor, dense: Tensor, backbone: Backbone
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one image: embedding [1, 256, e, e], logits [M, m, m] and quality estimates [M].

        Args:
            features: [1, ...] of `Backbone.encode` before the adapted blocks.
            sparse, dense: of M prompts, by the backbone's prompt encoder.
            backbone: the one it was made of.
        """
        embedding = self.tail(features)
        logits, quality = backbone.decode(embedding, self.position, sparse, dense, False)
        return embedding, logits[:, 0], quality[:, 0]

    def learned(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def merged(model: PromptedModel, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a whole SAM, with the updates added to the encoder's weights."""
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().clone().contiguous()
        for part in ("image_encoder", "prompt_encoder", "mask_decoder")
        for name, tensor in getattr(backbone, part).state_dict().items()
    }
    own = [
        f"image_encoder.{name}.qkv.weight"
        for name, module in backbone.image_encoder.named_modules()
        if isinstance(getattr(module, "qkv", None), nn.Linear)
    ]
    updates = [module for module in model.tail.modules() if isinstance(module, LoRAQueryValue)]
    for name, update in zip(own[-len(updates) :], updates, strict=True):
        tensors[name] = update.weight.detach().cpu().float().contiguous()
    return tensors


def save_merged(path: str | Path, model: PromptedModel, backbone: Backbone) -> None:
    """Write a SAM checkpoint that every command takes as --base; whole or not at all.

    Raises:
        SAMAutoSegError: it cannot be written.
    """
    # Tensors alone do not tell how their images are to be normalized, as of MedSAM and SAM.
    header = {INPUT_HEADER: json.dumps(backbone.spec.to_json())}
    with replace_when_complete(path) as temporary:
        temporary.write_bytes(save(merged(model, backbone), header))


@torch.no_grad()
def restore_learned(model: PromptedModel, state: dict[str, Tensor]) -> None:
    """Give the learned parameters these values, by name."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(state[name])
