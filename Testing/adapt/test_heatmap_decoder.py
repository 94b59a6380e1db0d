from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from SAMAutoSegLib.adapt.heatmap_decoder import HeatmapDecoder, InstancePrompt
from SAMAutoSegLib.adapt.heatmap_head import HeatmapOutput
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.predictor import ClickPredictor

# (class, row, column, radius, score) in cells of the 16 x 16 grid
Disc = tuple[int, int, int, float, float]


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


@pytest.fixture
def finder(backbone: Backbone) -> Callable[..., HeatmapDecoder]:
    """Builds a decoder whose head proposes some discs and whose SAM returns them."""

    def build(*discs: Disc) -> HeatmapDecoder:
        decoder = HeatmapDecoder(backbone.prompt_encoder, backbone.mask_decoder, 3)

        def propose_discs(embedding: Tensor) -> HeatmapOutput:
            heat = torch.full((len(embedding), 2, 16, 16), -20.0)
            inside = torch.zeros(len(embedding), 3, 16, 16)
            inside[:, 0] = -20
            reach = torch.ones(len(embedding), 4, 16, 16)
            for number, row, column, radius, score in discs:
                # The score is the root of this times the structure's share, one half.
                heat[0, number - 1, row, column] = torch.logit(torch.tensor(2 * score**2))
                reach[0, :, row, column] = radius
            return HeatmapOutput(heat, inside, reach)

        def fill(image: Tensor, position: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
            rows, columns = torch.meshgrid(*2 * [torch.arange(32) + 0.5], indexing="ij")
            x, y = points.T[:, :, None, None] * 32
            radius = (boxes[:, 2] - boxes[:, 0])[:, None, None] * 16
            return radius - torch.hypot(rows - y, columns - x)

        decoder.head.forward = propose_discs
        decoder.masks = fill
        return decoder

    return build


def found(decoder: HeatmapDecoder) -> list[tuple[int, float]]:
    (instances,) = decoder.instances(torch.zeros(1, 256, 8, 8), torch.zeros(1, 256, 8, 8))
    return [(i.number, round(i.score, 2)) for i in instances]


def test_of_masks_that_overlap_the_most_certain_one_is_kept(
    finder: Callable[..., HeatmapDecoder],
) -> None:
    nearly_same = [(1, 4, 4, 4.0, 0.55), (1, 4, 6, 4.0, 0.6)]
    apart = (1, 12, 12, 3.0, 0.52)
    assert found(finder(*nearly_same, apart)) == [(1, 0.6), (1, 0.52)]


def test_a_part_of_an_instance_is_not_another_one(finder: Callable[..., HeatmapDecoder]) -> None:
    assert found(finder((1, 6, 6, 5.0, 0.6), (1, 6, 9, 1.5, 0.55))) == [(1, 0.6)]


def test_instances_of_different_structures_may_overlap(
    finder: Callable[..., HeatmapDecoder],
) -> None:
    assert found(finder((1, 4, 4, 3.0, 0.55), (2, 4, 5, 3.0, 0.6))) == [(2, 0.6), (1, 0.55)]


def test_a_pixel_is_a_structures_where_one_of_its_masks_holds(
    finder: Callable[..., HeatmapDecoder],
) -> None:
    decoder = finder((1, 4, 4, 3.0, 0.6), (1, 11, 11, 2.0, 0.6), (2, 4, 12, 2.0, 0.6))
    logits = decoder(torch.zeros(2, 256, 8, 8), torch.zeros(1, 256, 8, 8))
    assert logits.shape == (2, 3, 32, 32)
    rows, columns = np.mgrid[:32, :32] + 0.5

    def disc(row: int, column: int, radius: float) -> np.ndarray:
        return np.hypot(rows - 2 * row - 1, columns - 2 * column - 1) < 2 * radius

    classes = logits.argmax(1).numpy()
    assert np.array_equal(classes[0] == 1, disc(4, 4, 3.0) | disc(11, 11, 2.0))
    assert np.array_equal(classes[0] == 2, disc(4, 12, 2.0))
    assert not classes[1].any()


def test_more_instances_than_one_pass_takes_are_all_found(
    finder: Callable[..., HeatmapDecoder],
) -> None:
    discs = [(1, r, c, 1.0, 0.6) for r in range(1, 16, 3) for c in range(1, 16, 3)]
    assert len(found(finder(*discs))) == len(discs) > 16


def test_an_empty_mask_is_no_instance(finder: Callable[..., HeatmapDecoder]) -> None:
    decoder = finder((1, 4, 4, 3.0, 0.6))
    decoder.masks = lambda image, position, points, boxes: torch.full((1, 32, 32), -1.0)
    assert found(decoder) == []


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_prompts_get_the_masks_that_clicks_and_boxes_get(
    backbone: Backbone, picture: Callable[..., np.ndarray], prompt: InstancePrompt
) -> None:
    predictor = ClickPredictor(backbone)
    embedding = predictor.set_image(picture(128, 128))
    boxes = np.array([[20.0, 30.0, 60.0, 90.0], [64.0, 8.0, 120.0, 40.0]])
    points = np.array([[40.0, 50.0], [100.0, 20.0]])
    if prompt == "box":
        expected = [p.low_res[0] for p in predictor.predict_boxes(boxes)]
    else:
        # A click names a pixel, whose middle is half a pixel further.
        clicks = [predictor.predict(p[None] - 0.5, np.array([1])) for p in points]
        expected = [click.low_res[click.iou.argmax()] for click in clicks]
    decoder = HeatmapDecoder(backbone.prompt_encoder, backbone.mask_decoder, 2, prompt)
    place = backbone.prompt_encoder.get_dense_pe()
    with torch.inference_mode():
        masks = decoder.masks(
            embedding,
            place,
            torch.from_numpy(points / 128).float(),
            torch.from_numpy(boxes / 128).float(),
        )
    np.testing.assert_allclose(masks.numpy(), np.stack(expected), rtol=1e-4, atol=1e-4)


def test_logits_can_be_differentiated_to_the_masks(finder: Callable[..., HeatmapDecoder]) -> None:
    decoder = finder((1, 4, 4, 4.0, 0.5), (1, 12, 12, 3.0, 0.4), (2, 4, 12, 3.0, 0.4))
    fill, level = decoder.masks, torch.zeros(1, requires_grad=True)
    decoder.masks = lambda *prompts: fill(*prompts) + level
    logits = decoder(torch.zeros(1, 256, 8, 8), torch.zeros(1, 256, 8, 8))
    (gradient,) = torch.autograd.grad(logits.sum(), level)
    assert gradient == (logits[:, 1:] > -10).sum()
