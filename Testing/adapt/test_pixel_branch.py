"""The small net that looks at the pixels beside a SAM."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.pixel_branch import PIXEL_SIDES, PixelBranch, pixel_side_for
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import Aspect, InputSpec


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("side", PIXEL_SIDES)
@torch.inference_mode()
def test_it_gives_logits_at_the_size_of_its_input(side: int) -> None:
    branch = PixelBranch(InputSpec(side=side), 4, 0.25)
    assert branch(torch.zeros(2, 3, side, side)).shape == (2, 4, side, side)


@pytest.mark.parametrize(
    ("shapes", "side"),
    [([(20, 31)], 32), ([(33, 20)], 64), ([(20, 20), (101, 122)], 128), ([(512, 512)], 128)],
)
def test_its_side_holds_every_pixel_where_it_may(shapes: list[tuple[int, int]], side: int) -> None:
    assert pixel_side_for(image(*shape) for shape in shapes) == side


@torch.inference_mode()
def test_what_both_find_is_their_weighted_product(backbone: Backbone) -> None:
    model = AdaptedModel(backbone, 3, Adaptation(pixel_side=64, pixel_weight=0.5)).eval()
    assert model.pixels is not None
    shown = image(64, 64)  # no pixel of it is resampled for the branch
    low_res = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    both = model.slice_logits(low_res, shown, backbone.spec).softmax(0)
    sam = backbone.spec.logits_to_slice(low_res, (64, 64)).softmax(0)
    own = model.pixels(model.pixels.spec.prepare(shown)[None])[0].softmax(0)
    product = (sam * own**0.5) ** (1 / 1.5)
    assert torch.allclose(both, product / product.sum(0), atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 30)])
@torch.inference_mode()
def test_low_res_shares_lie_where_low_res_logits_have_the_slice(shape: tuple[int, int]) -> None:
    spec = InputSpec(side=64)
    branch = PixelBranch(spec, 3, 0.25).eval()
    shown = image(*shape)
    own = branch.log_shares(shown)
    found = spec.logits_to_slice(branch.low_res_shares(shown, 64), shape)
    assert torch.allclose(found.log_softmax(0), own, atol=1e-5)
    smaller = branch.low_res_shares(shown, 32)
    inside = spec.slice_to_low_res(torch.ones(1, *shape), 32)[0] > 0
    averaged = torch.nn.functional.avg_pool2d(branch.low_res_shares(shown, 64)[None], 2)[0]
    assert smaller.shape == (3, 32, 32)
    assert torch.allclose(smaller[:, inside], averaged[:, inside], atol=1e-5)


@torch.inference_mode()
def test_without_it_a_slice_is_what_the_sam_says(backbone: Backbone) -> None:
    model = AdaptedModel(backbone, 3, Adaptation()).eval()
    low_res = torch.randn(3, 32, 32)
    found = model.slice_logits(low_res, image(50, 40), backbone.spec)
    assert torch.equal(found, backbone.spec.logits_to_slice(low_res, (50, 40)))


@pytest.mark.parametrize("aspect", ["pixel", "stretch"])
@torch.inference_mode()
def test_a_mark_in_the_slice_answers_in_its_own_place(backbone: Backbone, aspect: Aspect) -> None:
    """Of a slice that is not square."""
    backbone.spec = replace(backbone.spec, aspect=aspect)
    shape = (40, 30)
    blank = np.zeros(shape, np.uint8)
    marked = blank.copy()
    marked[30:33, 7:9] = 255
    low_res = torch.zeros(2, 32, 32)
    # One random net may answer beside the mark; what many answer is in its place.
    answer = torch.zeros(shape)
    for seed in range(12):
        torch.manual_seed(seed)
        model = AdaptedModel(backbone, 2, Adaptation(pixel_side=128)).eval()
        assert model.pixels is not None
        before, after = (
            model.slice_logits(low_res, shown, backbone.spec)[1] for shown in (blank, marked)
        )
        difference = (after - before).abs()
        answer += difference / difference.max()
    row, column = divmod(int(answer.argmax()), shape[1])
    assert abs(row - 31) <= 2 and abs(column - 7.5) <= 1.5


def test_the_sams_weights_do_not_count_it(backbone: Backbone) -> None:
    plain = AdaptedModel(backbone, 3, Adaptation())
    model = AdaptedModel(backbone, 3, Adaptation(pixel_side=32))
    assert list(model.named_weights()) == list(plain.named_weights())
    assert len(model.learned()) == len(plain.learned())
    more = set(model.learned_state()) - set(plain.learned_state())
    assert more and all(name.startswith("pixels.") for name in more)


def test_the_sam_starts_from_the_same_weights_with_it(backbone: Backbone) -> None:
    states = []
    for side in (0, 32):
        torch.manual_seed(4)
        states.append(AdaptedModel(backbone, 3, Adaptation(pixel_side=side)).learned_state())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("side", [-1, 1, 48, 256])
def test_another_side_is_refused(side: int) -> None:
    with pytest.raises(SAMAutoSegError, match=rf"pixel_side {side}: expected 0 or one of 32, 64"):
        Adaptation(pixel_side=side)


@pytest.mark.parametrize("weight", [0.0, -1.0, 10.5])
def test_a_say_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(SAMAutoSegError, match=rf"pixel_weight {weight}: expected above 0"):
        Adaptation(pixel_weight=weight)
