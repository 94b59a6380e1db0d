"""Prompts made of predictions: where they lie, and which of them a gradient passes."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.prompted_decoder import FrozenPrompter
from SAMAutoSegLib.adapt.self_prompts import (
    PromptKind,
    deepest,
    largest_part,
    log_odds,
    self_prompts,
)
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone

SIDE, M = 128, 32


def certain(*masks: np.ndarray) -> torch.Tensor:
    """Logits [1, K, m, m] that put every mask into a class of its own; later ones on top."""
    logits = torch.zeros(1, len(masks) + 1, M, M)
    logits[0, 0] = 1.0
    for n, mask in enumerate(masks, start=1):
        logits[0, n][torch.from_numpy(mask)] = 2.0 * n + 3
    return logits


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((M, M), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ((3, 5, 10, 20), (20, 12, 80, 40)),
        ((7, 9, 8, 10), (36, 28, 40, 32)),  # a single pixel
        ((0, 0, 32, 32), (0, 0, 128, 128)),  # everything
        ((28, 0, 32, 4), (0, 112, 16, 128)),  # a corner
    ],
)
def test_a_box_encloses_all_pixels_in_the_inputs_own(corners, box) -> None:
    prompts = self_prompts(certain(rectangle(*corners)), SIDE)
    assert prompts.classes.tolist() == [1] and prompts.images.tolist() == [0]
    assert tuple(prompts.boxes[0].tolist()) == box


def test_padding_is_a_share_of_the_box_and_ends_at_the_border() -> None:
    prompts = self_prompts(certain(rectangle(3, 5, 10, 20)), SIDE, padding=0.1)
    assert prompts.boxes[0].tolist() == pytest.approx([14, 9.2, 86, 42.8])
    prompts = self_prompts(certain(rectangle(0, 28, 4, 32)), SIDE, padding=0.5)
    assert prompts.boxes[0].tolist() == pytest.approx([104, 0, 128, 24])


def test_a_class_without_a_pixel_has_no_prompt() -> None:
    nothing = np.zeros((M, M), bool)
    prompts = self_prompts(certain(nothing, rectangle(1, 1, 3, 3)), SIDE, "box-point-mask")
    assert prompts.classes.tolist() == [2]
    empty = self_prompts(certain(nothing), SIDE, "box-point-mask")
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)
    assert empty.points is not None and empty.points.shape == (0, 2)
    assert empty.masks is not None and empty.masks.shape == (0, 1, M, M)


def test_only_the_largest_part_is_enclosed() -> None:
    mask = rectangle(2, 2, 6, 6) | rectangle(20, 20, 22, 30) | rectangle(6, 6, 8, 7)
    assert self_prompts(certain(mask), SIDE).boxes[0].tolist() == [80, 80, 120, 88]


def test_the_middle_is_farthest_from_the_border_of_the_largest_part() -> None:
    mask = np.zeros((20, 30), bool)
    mask[0:7, 10:21] = True  # at the border of the image, which is one of the mask too
    mask[15:18, 1:4] = True
    row, column = deepest(largest_part(mask))
    assert row == 3 and 13 <= column <= 17
    mask[0:7, 10:21] = False
    assert deepest(largest_part(mask)) == (16, 2)


def test_the_point_lies_deepest_inside_the_part() -> None:
    ring = rectangle(4, 4, 25, 25) & ~rectangle(8, 8, 21, 25)
    prompts = self_prompts(certain(ring), SIDE, "box-point")
    assert prompts.points is not None
    column, row = (prompts.points[0] / 4 - 0.5).tolist()
    assert ring[int(row), int(column)]
    square = self_prompts(certain(rectangle(0, 0, 5, 5)), SIDE, "box-point")
    assert square.points is not None and square.points[0].tolist() == [10, 10]


def test_every_image_of_a_batch_and_every_class_has_its_own_prompt() -> None:
    one, other = rectangle(1, 1, 5, 5), rectangle(10, 12, 20, 22)
    batch = torch.cat([certain(one, other), certain(other, one)])
    prompts = self_prompts(batch, SIDE, "box-mask")
    assert prompts.images.tolist() == [0, 0, 1, 1] and prompts.classes.tolist() == [1, 2, 1, 2]
    assert torch.equal(prompts.boxes[0], prompts.boxes[3])
    picked = prompts.chosen(torch.tensor([3]))
    assert len(picked) == 1 and torch.equal(picked.masks, prompts.masks[3:])


def test_log_odds_are_those_of_the_softmax() -> None:
    logits = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    wanted = logits.softmax(1).logit()
    torch.testing.assert_close(log_odds(logits), wanted, rtol=1e-4, atol=1e-4)
    sure = torch.tensor([0.0, 60.0]).view(1, 2, 1)
    assert log_odds(sure).flatten().tolist() == [-60, 60]


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


@pytest.fixture
def embedding(backbone: Backbone) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return backbone.encode(torch.randn(1, 3, SIDE, SIDE, generator=generator))


def test_a_gradient_passes_the_mask_prompt_and_not_the_box(
    backbone: Backbone, embedding: torch.Tensor
) -> None:
    logits = certain(rectangle(3, 5, 20, 20)).requires_grad_(True)
    boxed = self_prompts(logits, SIDE)
    assert not boxed.boxes.requires_grad
    assert not FrozenPrompter(backbone)(embedding, boxed)[0].requires_grad
    masked = self_prompts(logits, SIDE, "box-mask")
    answer, _ = FrozenPrompter(backbone)(embedding, masked)
    answer.square().mean().backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


def test_the_frozen_prompter_answers_as_the_click_predictor(
    backbone: Backbone, embedding: torch.Tensor
) -> None:
    prompts = self_prompts(certain(rectangle(3, 5, 10, 20), rectangle(12, 1, 30, 9)), SIDE)
    with torch.no_grad():
        logits, iou = FrozenPrompter(backbone)(embedding, prompts)
        sparse, dense = backbone.prompt_encoder(points=None, boxes=prompts.boxes, masks=None)
        wanted, score = backbone.mask_decoder(
            image_embeddings=embedding,
            image_pe=backbone.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    torch.testing.assert_close(logits, wanted[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(iou, score[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", get_args(PromptKind))
def test_a_learned_prompted_pass_starts_as_sams_own(
    backbone: Backbone, embedding: torch.Tensor, kind: PromptKind
) -> None:
    model = AdaptedModel(backbone, 3, Adaptation(prompted=True, prompt=kind))
    shapes = certain(rectangle(3, 5, 10, 20), rectangle(12, 1, 30, 9))
    prompts = self_prompts(shapes, SIDE, kind)
    with torch.no_grad():
        found, wanted = (
            model.answer(embedding, prompts),
            FrozenPrompter(backbone)(embedding, prompts),
        )
    for own, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", get_args(PromptKind))
def test_a_prompted_pass_learns_the_embeddings_of_its_prompts_and_no_others(
    backbone: Backbone, embedding: torch.Tensor, kind: PromptKind
) -> None:
    model = AdaptedModel(backbone, 3, Adaptation(prompted=True, prompt=kind))
    prompts = self_prompts(certain(rectangle(3, 5, 10, 20)), SIDE, kind)
    model.answer(embedding, prompts)[0].square().mean().backward()
    assert model.prompted is not None
    own = dict(model.prompted.prompt_encoder.named_parameters())
    reached = {name for name, values in own.items() if values.grad is not None}
    wanted = {"point_embeddings.2.weight", "point_embeddings.3.weight"}
    if "point" in kind:
        wanted.add("point_embeddings.1.weight")
    if "mask" in kind:
        wanted |= {name for name in own if name.startswith("mask_downscaling.")}
    assert reached == wanted == {name for name, values in own.items() if values.requires_grad}


def test_a_mask_takes_the_place_of_the_prompt_that_says_there_is_none(
    backbone: Backbone, embedding: torch.Tensor
) -> None:
    model = AdaptedModel(backbone, 2, Adaptation(prompted=True, prompt="box-mask"))
    shape = certain(rectangle(3, 5, 20, 20))
    for kind, heeds in (("box", True), ("box-mask", False)):
        prompts = self_prompts(shape, SIDE, kind)
        answers = []
        for value in (0.0, 1.0):
            with torch.no_grad():
                model.prompt_embedding.fill_(value)
                answers.append(model.answer(embedding, prompts)[0])
        assert torch.equal(*answers) != heeds


def test_the_learned_prompted_pass_is_in_the_learned_state(
    backbone: Backbone, embedding: torch.Tensor
) -> None:
    model = AdaptedModel(backbone, 3, Adaptation(prompted=True))
    plain = set(AdaptedModel(backbone, 3, Adaptation()).learned_state())
    own = {name.split(".")[1] for name in set(model.learned_state()) - plain}
    assert own == {"mask_tokens", "hypernetwork", "prompt_encoder"}
    with torch.no_grad():
        for parameter in model.learned():
            parameter += 0.1
    other = AdaptedModel(backbone, 3, Adaptation(prompted=True))
    other.load_learned_state(model.learned_state())
    prompts = self_prompts(certain(rectangle(3, 5, 10, 20)), SIDE)
    with torch.no_grad():
        one, two = model.answer(embedding, prompts)[0], other.answer(embedding, prompts)[0]
    assert torch.equal(one, two)


def test_prompts_of_several_origins_are_joined_in_order() -> None:
    logits = torch.cat([certain(rectangle(1, 1, 5, 5), rectangle(10, 12, 20, 22))] * 2)
    prompts = self_prompts(logits, SIDE, "box-point")
    last, first = (prompts.chosen(torch.tensor(n)) for n in ([3], [0, 2]))
    both = last.joined(first)
    assert both.images.tolist() == [1, 0, 1] and both.classes.tolist() == [2, 1, 1]
    assert both.masks is None and both.points is not None and prompts.points is not None
    assert torch.equal(both.points, prompts.points[[3, 0, 2]])


def test_a_kind_of_prompt_that_does_not_exist_is_named() -> None:
    with pytest.raises(SAMAutoSegError, match="prompt 'boxes': expected one of box, box-point"):
        Adaptation(prompted=True, prompt="boxes")  # type: ignore[arg-type]


def test_a_prompted_pass_goes_with_class_tokens_only() -> None:
    with pytest.raises(SAMAutoSegError, match="head auto-linear: a prompted pass goes with"):
        Adaptation(lora_rank=0, head="auto-linear", prompted=True)
