"""From prompts to masks of one structure each: SAM's own way, and one that is learned."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from SAMAutoSegLib.adapt.class_decoder import ClassDecoder
from SAMAutoSegLib.adapt.self_prompts import PromptKind, SelfPrompts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.two_way import mask_logits, two_way, upscale


class Prompter(Protocol):
    """Answers N prompts on one image, or on N images one each.

    Takes the embedding [1, 256, e, e] or [N, 256, e, e] and gives logits [N, m, m], positive
    inside the structure, and the decoder's own estimates of their IoU [N].

    Attributes:
        kind: of the prompts that it knows best.
        sure: expected Dice from which on a prediction is better than its answers on average.
    """

    @property
    def kind(self) -> PromptKind: ...
    @property
    def sure(self) -> float: ...

    def __call__(self, embedding: Tensor, prompts: SelfPrompts) -> tuple[Tensor, Tensor]: ...


class FrozenPrompter:
    """The backbone's own prompt encoder and mask decoder, as pretrained; one image at a time."""

    # All that LiteMedSAM was trained with, and what every SAM was.
    kind: PromptKind = "box"
    sure: float = 0.85

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __call__(self, embedding: Tensor, prompts: SelfPrompts) -> tuple[Tensor, Tensor]:
        sparse, dense = _encoded(self.backbone.prompt_encoder, prompts)
        if prompts.masks is None:
            dense = dense[:1]  # the same for all prompts: added to the image once
        position = self.backbone.prompt_encoder.get_dense_pe()
        masks, iou = self.backbone.decode(
            embedding,
            position.to(embedding.dtype),
            sparse.to(embedding.dtype),
            dense.to(embedding.dtype),
            False,
        )
        return masks[:, 0].float(), iou[:, 0].float()


class PromptedDecoder(nn.Module):
    """What the prompted pass has besides the pass without a prompt (SAM-SP, arXiv 2408.12364).

    Both passes share the transformer with its low-rank update and the upscaling. This one has SAM's
    mask tokens, the hypernetwork of the first of them, which stands for a single mask, and the
    embeddings of the prompts of its kind: the corners of a box, a point inside, a mask's
    convolutions. All start as pretrained, so that before any training it answers as SAM does. The
    head that estimates the IoU stays as it is.

    Args:
        backbone: any SAM; its weights are copied.
        kind: of the prompts to be learned; others are answered with what SAM knows of them.
    """

    def __init__(self, backbone: Backbone, kind: PromptKind = "box") -> None:
        super().__init__()
        source = copy.deepcopy(backbone.mask_decoder)
        self.prompt_encoder: nn.Module = copy.deepcopy(backbone.prompt_encoder)
        self.prompt_encoder.requires_grad_(False)
        self.input_side = backbone.spec.side
        # Of a point outside, a point inside, and two corners of a box.
        _, inside, *corners = self.prompt_encoder.point_embeddings
        learned = [*corners]
        if "point" in kind:
            learned.append(inside)
        if "mask" in kind:
            learned.append(self.prompt_encoder.mask_downscaling)
        for module in learned:
            module.requires_grad_(True)
        self.mask_tokens = nn.Parameter(source.mask_tokens.weight.detach().clone())
        self.hypernetwork: nn.Module = source.output_hypernetworks_mlps[0].requires_grad_(True)
        self.iou_prediction_head: nn.Module = source.iou_prediction_head.requires_grad_(False)

    def forward(
        self, shared: ClassDecoder, embedding: Tensor, position: Tensor, prompts: SelfPrompts
    ) -> tuple[Tensor, Tensor]:
        """See `Prompter`.

        Args:
            shared: the decoder of the pass without a prompt.
            embedding: if the prompts have no masks, the dense prompt that stands for this already
                added.
            position: [1, 256, e, e], SAM's image-wide position code.
        """
        sparse, dense = _encoded(self.prompt_encoder, prompts)
        if prompts.masks is not None:
            embedding = embedding + dense.to(embedding.dtype)
        image = embedding.flatten(2).transpose(1, 2)
        image = image.expand(len(prompts), -1, -1).contiguous()
        place = position.flatten(2).transpose(1, 2)
        own = torch.cat([shared.iou_token.weight, self.mask_tokens]).expand(len(prompts), -1, -1)
        tokens = torch.cat([own, sparse.to(own.dtype)], dim=1)
        tokens, image = two_way(shared.transformer, tokens, image, place)
        features = upscale(shared.output_upscaling, image)
        masks = mask_logits(features, [self.hypernetwork], tokens[:, 1:2])
        return masks[:, 0].float(), self.iou_prediction_head(tokens[:, 0])[:, 0].float()


def _encoded(prompt_encoder: nn.Module, prompts: SelfPrompts) -> tuple[Tensor, Tensor]:
    """Sparse [N, T, 256] and dense [N, 256, e, e] embeddings of prompts."""
    points = None
    if prompts.points is not None:
        inside = torch.ones(len(prompts), 1, dtype=torch.int, device=prompts.points.device)
        points = (prompts.points[:, None], inside)
    sparse, dense = prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    return sparse, dense
