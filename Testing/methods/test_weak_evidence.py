"""What weak labels do to a prediction."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.views import Motion
from SAMAutoSegLib.images.weak_labels import Hint
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.weak_evidence import Evidence, corrected, gather_evidence, pseudo_labels
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.predictor import ClickPredictor

SHAPE = (32, 32)
DISC, BAR = 3, 7

Gather = Callable[..., Evidence]


@pytest.fixture
def gather(
    tiny_backbone: Callable[..., Backbone], structures: list[Structure], picture: Callable
) -> Gather:
    predictor = ClickPredictor(tiny_backbone())
    predictor.set_image(picture(*SHAPE))

    def of(**hints: Hint) -> Evidence:
        named = {DISC: hints.get("disc"), BAR: hints.get("bar")}
        given = {label: hint for label, hint in named.items() if hint is not None}
        return gather_evidence(given, structures, predictor, SHAPE)

    return of


def shares_of(disc: np.ndarray, bar: np.ndarray) -> torch.Tensor:
    inner = torch.from_numpy(np.stack([disc, bar])).float()[None]
    return torch.cat([1 - inner.sum(1, keepdim=True), inner], 1)


def square(top: int, left: int, size: int, high: float = 0.9, low: float = 0.02) -> np.ndarray:
    plane = np.full(SHAPE, low)
    plane[top : top + size, left : left + size] = high
    return plane


NOTHING = np.zeros(SHAPE)


def test_nothing_known_changes_nothing(gather: Gather) -> None:
    shares = shares_of(square(5, 5, 9, 0.5), square(7, 7, 9, 0.4))
    assert torch.allclose(corrected(shares, [gather()]), shares)


def test_nothing_lies_outside_of_a_box(gather: Gather) -> None:
    shares = shares_of(square(2, 2, 20), NOTHING)
    evidence = gather(disc=Hint(boxes=((5, 6, 15, 18),), tight=False))
    found = corrected(shares, [evidence])[0]
    assert found[1, 5:15, 6:18].min() > 0.8
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[5:15, 6:18] = False
    assert found[1][outside].max() == 0
    assert torch.allclose(found.sum(0), torch.ones(SHAPE))


def test_the_frozen_sam_fills_a_box_that_the_model_leaves_empty(gather: Gather) -> None:
    evidence = gather(disc=Hint(boxes=((5, 6, 15, 18),)))
    assert evidence.prompted[0].isfinite().all() and evidence.prompted[1].isnan().all()
    proposed = evidence.prompted[0, 5:15, 6:18] > 0
    found = corrected(shares_of(NOTHING, NOTHING), [evidence])[0, 1, 5:15, 6:18] > 0.5
    assert torch.equal(found, proposed)
    # A model's own mask that fills the box is kept.
    own = shares_of(NOTHING, NOTHING)
    own[0, 1, 5:15, 6:18], own[0, 0, 5:15, 6:18] = 0.9, 0.09
    assert corrected(own, [evidence])[0, 1, 5:15, 6:18].min() > 0.8


def test_a_region_in_space_is_no_prompt(gather: Gather) -> None:
    evidence = gather(disc=Hint(boxes=((5, 6, 15, 18),), tight=False))
    assert evidence.prompted.isnan().all()


def test_an_absent_structure_is_nowhere(gather: Gather) -> None:
    shares = shares_of(square(5, 5, 9), square(20, 20, 6))
    found = corrected(shares, [gather(disc=Hint(absent=True))])[0].argmax(0)
    assert not (found == 1).any() and (found == 2).sum() == 36


def test_paint_fixes_its_core_and_what_is_far_from_it(gather: Gather) -> None:
    paint = np.zeros(SHAPE, bool)
    paint[8:20, 8:20] = True
    evidence = gather(disc=Hint(coarse=paint))
    assert evidence.certain[0, 14, 14] == 1 and evidence.certain[0, 30, 30] == -1
    # Nothing is certain as near to the border as 0.35 of the radius of a disc of 144 pixels, 2.4.
    assert evidence.certain[0, 14, 6:12].tolist() == [0, 0, 0, 0, 1, 1]
    assert evidence.certain[0, 14, 3:6].tolist() == [-1, -1, -1]
    assert evidence.certain[1, 14, 14] == -1  # what is one structure's is no other's
    found = corrected(shares_of(NOTHING, NOTHING), [evidence])[0]
    assert found[1, 14, 14] == 1 and found[1, 30, 30] == 0


def test_paint_may_go_on_beyond_the_image(gather: Gather) -> None:
    paint = np.zeros(SHAPE, bool)
    paint[:12, 8:20] = True
    assert gather(disc=Hint(coarse=paint)).certain[0, 0, 14] == 1


def test_where_clicks_and_rough_paint_disagree_the_clicks_hold(gather: Gather) -> None:
    paint = np.zeros(SHAPE, bool)
    paint[8:20, 8:20] = True
    points = ((14, 14, -1), (28, 28, 1))  # in its core, and far from it
    evidence = gather(disc=Hint(points=points, coarse=paint))
    assert evidence.certain[0, 14, 14] == -1 and evidence.certain[0, 28, 28] == 1
    assert evidence.certain[0, 10, 11] == 1 and evidence.certain[0, 28, 20] == -1


def test_what_two_structures_claim_may_be_either_but_no_third_one(
    tiny_backbone: Callable[..., Backbone], picture: Callable
) -> None:
    structures = [structure_named(name, n) for n, name in enumerate(("liver", "spleen", "aorta"))]
    hints = {0: Hint(points=((10, 10, 1),)), 1: Hint(points=((10, 11, 1),))}
    predictor = ClickPredictor(tiny_backbone())
    predictor.set_image(picture(*SHAPE))
    apart = [gather_evidence({n: hints[n]}, structures, predictor, SHAPE) for n in hints]
    both = (apart[0].certain[0] > 0) & (apart[1].certain[1] > 0)
    assert both.any()
    hints[2] = Hint(boxes=((20, 20, 26, 26),))
    certain = gather_evidence(hints, structures, predictor, SHAPE).certain
    assert (certain[:2, both] == 0).all() and (certain[2, both] == -1).all()


def test_many_clicks_move_the_level_farther_than_one(gather: Gather) -> None:
    shares = shares_of(square(5, 5, 12, high=0.02, low=0.001), NOTHING)
    places = ((7, 7, 1), (7, 14, 1), (11, 11, 1), (14, 7, 1), (14, 14, 1))
    one, five = (
        corrected(shares, [gather(disc=Hint(points=points))])[0, 1, 5, 9]
        for points in (places[:1], places)
    )
    assert 0.1 < one < 0.5 < five  # beside all clicks, 0.02 before


def test_clicks_hold_and_move_the_level_of_the_whole_structure(gather: Gather) -> None:
    plane = square(5, 5, 12, high=0.3, low=0.02)
    shares = shares_of(plane, NOTHING)
    assert not (shares.argmax(1) == 1).any()
    hint = Hint(points=((7, 7, 1), (13, 13, 1), (25, 25, -1)))
    found = corrected(shares, [gather(disc=hint)])[0].argmax(0)
    assert (found[5:17, 5:17] == 1).all() and not (found[20:, 20:] == 1).any()


def test_clicks_outside_lower_the_level(gather: Gather) -> None:
    plane = np.maximum(square(5, 5, 8, 0.95), square(18, 18, 8, 0.6))
    hint = Hint(points=((8, 8, 1), (20, 20, -1), (23, 23, -1)))
    found = corrected(shares_of(plane, NOTHING), [gather(disc=hint)])[0].argmax(0)
    assert (found[5:13, 5:13] == 1).all() and not (found[18:26, 18:26] == 1).any()


def test_of_clicks_side_by_side_each_holds_its_own_pixel(gather: Gather) -> None:
    evidence = gather(disc=Hint(points=((10, 10, 1), (10, 11, -1), (14, 10, 1), (14, 12, -1))))
    for planes in (evidence.clicks, evidence.certain):
        assert planes[0, 10, 9:13].tolist() == [1, 1, -1, -1]
        assert planes[0, 14, 9:14].tolist() == [1, 1, 0, -1, -1]


def test_clicks_on_two_structures_side_by_side_do_not_share_a_pixel(gather: Gather) -> None:
    evidence = gather(disc=Hint(points=((10, 10, 1),)), bar=Hint(points=((10, 12, 1),)))
    assert evidence.certain[:, 10, 9:14].tolist() == [[1, 1, 0, -1, -1], [-1, -1, 0, 1, 1]]


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_no_click_is_lost_in_a_large_slice(
    size: int,
    tiny_backbone: Callable[..., Backbone],
    structures: list[Structure],
    picture: Callable,
) -> None:
    backbone, rng = tiny_backbone(), np.random.default_rng(size)
    predictor = ClickPredictor(backbone)
    predictor.set_image(picture(size, size))
    for row, column in rng.integers(0, size, (20, 2)):
        hint = Hint(points=((int(row), int(column), 1),))
        evidence = gather_evidence({DISC: hint}, structures, predictor, (size, size))
        kept = evidence.low_res(backbone.spec, 4 * backbone.embedding_side)
        assert (kept.clicks[0] == 1).any() and not (kept.clicks[0] < 0).any()


def test_evidence_moves_with_its_slice(gather: Gather) -> None:
    evidence = gather(disc=Hint(points=((10, 10, 1),)))
    shifted = evidence.moved(Motion(np.eye(2), np.array([-3.0, 4.0])))
    assert evidence.clicks[0, 10, 10] == 1 and shifted.clicks[0, 13, 6] == 1
    assert shifted.prompted.isnan().all()


def test_what_comes_from_beyond_the_border_says_nothing_of_what_was_not_marked(
    gather: Gather,
) -> None:
    motion = Motion(np.eye(2), np.array([-3.0, 4.0]))  # three rows and four columns from beyond
    shares = shares_of(square(5, 5, 9), NOTHING)
    assert torch.equal(corrected(shares, [gather().moved(motion)]), shares)
    marks = (Hint(boxes=((5, 6, 15, 18),)), Hint(boxes=((5, 6, 15, 18),), tight=False))
    for hint in (*marks, Hint(absent=True)):
        shifted = gather(disc=hint).moved(motion)
        assert (shifted.certain[0, :3] == -1).all() and (shifted.certain[0, :, 28:] == -1).all()
        assert shifted.prompted[1].isnan().all() and (shifted.certain[1] == 0).all()
        assert corrected(shares, [shifted])[0, 1, :3].max() == 0


def test_evidence_at_the_size_of_logits_says_the_same_in_less_space(
    gather: Gather, tiny_backbone: Callable[..., Backbone]
) -> None:
    hint = Hint(boxes=((5, 6, 15, 18),), points=((7, 7, 1), (25, 25, -1)))
    evidence = gather(disc=hint)
    spec = tiny_backbone().spec  # of 128 x 128 pixels, so the slice is shown 4 times as large
    kept = evidence.low_res(spec, 32)
    shares = shares_of(square(5, 5, 9, 0.6), NOTHING)
    expected, found = corrected(shares, [evidence]), corrected(shares, [kept])
    assert torch.allclose(expected, found, atol=1e-3)
    size = sum(plane.nbytes for plane in kept.planes)
    assert size == 5 / 16 * sum(plane.nbytes for plane in evidence.planes)


def test_pixels_of_little_confidence_and_of_the_padding_are_ignored() -> None:
    shares = shares_of(square(5, 5, 9, 0.55), NOTHING)
    inside = torch.ones(1, *SHAPE, dtype=torch.bool)
    inside[:, :, 28:] = False
    labels = pseudo_labels(shares, inside, 0.7)
    assert labels.dtype == torch.uint8
    assert (labels[0, 5:14, 5:14] == IGNORED).all() and (labels[0, :, 28:] == IGNORED).all()
    assert (labels[0, 20:, :28] == 0).all()
    assert (pseudo_labels(shares, inside, 0.0)[0, 5:14, 5:14] == 1).all()
