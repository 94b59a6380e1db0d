"""Which boxes are tried for points, and which of the answers is taken."""

import numpy as np
import pytest

from SAMAutoSegLib.sam.points_by_boxes import predict_points_by_boxes
from SAMAutoSegLib.sam.predictor import Prediction

SHAPE = (100, 120)


class Answers:
    """Stands in for a decoder: a box gives the part that it holds of the object it fits best.

    The estimated quality is the share of the object, less where the box has room to spare.
    """

    def __init__(self, *objects: tuple[slice, slice]) -> None:
        self.objects = [np.zeros(SHAPE, bool) for _ in objects]
        for mask, where in zip(self.objects, objects, strict=True):
            mask[where] = True
        self.boxes: list[np.ndarray] = []

    def predict_boxes(self, boxes: np.ndarray, rough: bool = False) -> list[Prediction]:
        self.boxes += list(boxes)
        return [self._answer(box) for box in boxes]

    def _answer(self, box: np.ndarray) -> Prediction:
        column0, row0, column1, row1 = np.round(box).astype(int)
        shown = np.zeros(SHAPE, bool)
        shown[row0:row1, column0:column1] = True
        overlaps = [(mask & shown).sum() / (mask | shown).sum() for mask in self.objects]
        best = int(np.argmax(overlaps))
        mask = self.objects[best] & shown
        share = mask.sum() / self.objects[best].sum()
        iou = np.array([share - 0.01 * (1 - overlaps[best])], np.float32)
        return Prediction(mask[None], iou, mask[None].astype(np.float32))


def answer(decoder: Answers, *points: tuple[int, int, int], box: object = None) -> np.ndarray:
    """Points as (row, column, sign)."""
    where = np.array([[column, row] for row, column, _ in points], float)
    signs = np.array([int(sign > 0) for _, _, sign in points])
    given = None if box is None else np.array(box, float)
    found = predict_points_by_boxes(decoder, where, signs, SHAPE, given)  # type: ignore[arg-type]
    assert found.masks.shape == (1, *SHAPE) and found.iou.shape == (1,)
    return found.masks[0]


@pytest.mark.parametrize("side", [8, 20, 40])
def test_one_point_finds_objects_of_different_sizes(side: int) -> None:
    part = slice(50 - side // 2, 50 + side // 2)
    decoder = Answers((part, part))

    assert np.array_equal(answer(decoder, (50, 50, 1)), decoder.objects[0])


def test_the_box_of_the_best_mask_is_tried_once_more() -> None:
    decoder = Answers((slice(45, 55), slice(20, 80)))
    answer(decoder, (50, 50, 1))

    assert decoder.boxes[-1].tolist() == [20, 45, 80, 55] or len(decoder.boxes) == 6


def test_boxes_hold_all_points_inside_and_stay_in_the_slice() -> None:
    decoder = Answers((slice(0, 40), slice(0, 60)))
    answer(decoder, (2, 3, 1), (35, 55, 1))

    for column0, row0, column1, row1 in decoder.boxes[:5]:
        assert 0 <= column0 <= 3 and 0 <= row0 <= 2
        assert 55 <= column1 <= SHAPE[1] and 35 <= row1 <= SHAPE[0]


def test_a_point_outside_decides_between_two_answers() -> None:
    small, large = (slice(45, 55), slice(45, 55)), (slice(30, 70), slice(30, 70))
    both = Answers(small, large)

    assert not answer(both, (50, 50, 1), (35, 35, -1))[35, 35]
    assert answer(both, (50, 50, 1), (35, 35, 1))[35, 35]


def test_a_drawn_box_is_used_with_points() -> None:
    decoder = Answers((slice(20, 60), slice(30, 90)))
    found = answer(decoder, (40, 60, 1), box=(30, 20, 90, 60))

    assert np.array_equal(found, decoder.objects[0])
    assert decoder.boxes[0].tolist() == [30, 20, 90, 60] and len(decoder.boxes) == 3


def test_only_points_outside_give_an_answer_too() -> None:
    decoder = Answers((slice(45, 55), slice(45, 55)))
    assert answer(decoder, (10, 10, -1)).dtype == bool


def test_a_point_outside_cuts_a_former_mask() -> None:
    decoder = Answers((slice(40, 60), slice(20, 60)), (slice(40, 60), slice(60, 100)))
    present = np.zeros(SHAPE, bool)
    present[40:60, 20:100] = True  # ran into its neighbor

    where, signs = np.array([[80.0, 50.0]]), np.array([0])
    found = predict_points_by_boxes(decoder, where, signs, SHAPE, mask=present)  # type: ignore[arg-type]

    assert not found.masks[0][50, 80]
    assert found.masks[0][40:60, 20:60].all()
