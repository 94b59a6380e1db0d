import json
import math
from dataclasses import replace

import numpy as np
import pytest

from SAMAutoSegLib.evaluate.metrics import StructureScore, mean_score, score_volume
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Grid

ORGAN = Structure(1, "organ", (1, 0, 0))
SIZE = (40, 30, 20)
GRID = Grid(SIZE, (1.0, 3.0, 5.0), (0.0, 0.0, 0.0), np.eye(3))


def box(i: tuple[int, int], j: tuple[int, int], k: tuple[int, int], label: int = 1) -> np.ndarray:
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[slice(*k), slice(*j), slice(*i)] = label
    return labels


REFERENCE = box((10, 20), (10, 20), (5, 15))


def score(prediction: np.ndarray, reference: np.ndarray = REFERENCE, **options) -> StructureScore:
    (result,) = score_volume(prediction, reference, GRID, [ORGAN], **options)
    return result


@pytest.mark.parametrize("slices", [None, range(20)])
def test_a_perfect_prediction_scores_one_at_no_distance(slices):
    result = score(REFERENCE, slices=slices)
    assert (result.dice, result.nsd, result.hd95_mm) == (1, 1, 0)
    assert result.reference_voxels == result.predicted_voxels == 1000


def test_dice_counts_voxels():
    # 10 x 10 x 10 against 5 x 10 x 10 inside of it: 2 * 500 / 1500.
    assert score(box((10, 15), (10, 20), (5, 15))).dice == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("moved", "distance"),
    [
        (box((12, 22), (10, 20), (5, 15)), 2.0),
        (box((10, 20), (11, 21), (5, 15)), 3.0),
        (box((10, 20), (10, 20), (6, 16)), 5.0),
    ],
)
def test_a_moved_box_is_as_far_as_its_spacing_says(moved, distance):
    assert score(moved).hd95_mm == pytest.approx(distance)
    assert score(moved, nsd_tolerance_mm=distance).nsd == 1
    assert score(moved, nsd_tolerance_mm=0.99 * distance).nsd < 1


def test_nsd_of_a_volume_is_the_area_of_the_faces_that_stayed_in_place():
    # A box of 10 x 10 x 10 voxels moved by one voxel along i. Its surface elements sit at the
    # voxel corners: 9 x 9 on each face, 9 chamfered ones on each edge, a cut one at each corner.
    # All but one of the two faces across i, with half of the edges and corners around them, stay
    # within 0.5 mm of the other box.
    i, j, k = GRID.spacing
    edge = {
        "i": i * math.hypot(j, k) / 2,
        "j": j * math.hypot(i, k) / 2,
        "k": k * math.hypot(i, j) / 2,
    }
    corner = math.sqrt((i * j) ** 2 + (j * k) ** 2 + (k * i) ** 2) / 8
    total = 2 * 81 * (j * k + i * k + i * j) + 4 * 9 * sum(edge.values()) + 8 * corner
    stayed = 2 * 81 * (i * k + i * j) + 4 * 9 * edge["i"] + 2 * 9 * (edge["j"] + edge["k"])
    stayed += 4 * corner
    result = score(box((11, 21), (10, 20), (5, 15)), nsd_tolerance_mm=0.5)
    assert result.nsd == pytest.approx(stayed / total)


def test_nsd_of_slices_is_the_length_of_contour_that_stayed_in_place():
    # A rectangle of 10 x 10 pixels of 1 mm (columns) by 3 mm (rows), moved by one column. Its
    # contour has 9 straight pieces a side, of 1 or 3 mm, and 4 cut corners. Of either contour the
    # top and bottom stay within 0.5 mm of the other: twice 9 pieces of 1 mm and one corner.
    corner = math.hypot(0.5, 1.5)
    stayed = 2 * (9 * 1 + corner)
    length = 2 * 9 * 1 + 2 * 9 * 3 + 4 * corner
    moved = box((11, 21), (10, 20), (5, 15))
    result = score(moved, nsd_tolerance_mm=0.5, slices=range(20))
    assert result.nsd == pytest.approx(stayed / length)
    assert result.hd95_mm == pytest.approx(1.0)
    assert result.dice == pytest.approx(0.9)


def test_contours_are_pooled_over_the_slices_by_their_length():
    # Half of the ten slices are perfect, in the other half everything is one row too low.
    prediction = box((10, 20), (10, 20), (5, 15))
    prediction[10:15] = np.roll(prediction[10:15], 1, axis=1)
    corner = math.hypot(0.5, 1.5)
    length = 2 * 9 * 1 + 2 * 9 * 3 + 4 * corner
    stayed = 2 * (9 * 3 + corner)
    result = score(prediction, nsd_tolerance_mm=0.5, slices=range(20))
    assert result.nsd == pytest.approx((length + stayed) / (2 * length))
    assert result.hd95_mm == pytest.approx(3.0)


def test_what_lies_in_other_slices_changes_nothing():
    scored = [6, 8, 9, 13]
    prediction = box((12, 22), (11, 21), (5, 15))
    expected = score(prediction, slices=scored)
    others = [n for n in range(20) if n not in scored]
    elsewhere, reference = prediction.copy(), REFERENCE.copy()
    elsewhere[others] = 1
    reference[others] = 0
    assert score(elsewhere, reference, slices=scored) == expected
    assert expected.reference_voxels == 400


def test_slices_count_along_the_axis_asked_for_whatever_the_storage():
    prediction = box((12, 22), (11, 21), (5, 14))
    expected = score(prediction, slices=[7, 8], axis="axial")
    permuted = Grid(
        (SIZE[2], SIZE[0], SIZE[1]), (5.0, 1.0, 3.0), (0.0, 0.0, 0.0), np.eye(3)[:, [2, 0, 1]]
    )
    turned = [array.transpose(1, 2, 0) for array in (prediction, REFERENCE)]
    assert score_volume(*turned, permuted, [ORGAN], slices=[7, 8]) == [expected]
    assert score_volume(*turned, permuted, [ORGAN], slices=[7, 8], axis="i") == [expected]


def test_a_slice_too_much_is_missed_contour_and_far_away_only_if_it_is_much():
    little = score(box((10, 20), (10, 20), (5, 15)), slices=range(5, 15))
    assert little.hd95_mm == 0
    prediction = REFERENCE.copy()
    prediction[15, 10:12, 10:12] = 1
    tip = score(prediction, slices=range(20))
    assert 0.98 < tip.nsd < 1
    assert tip.hd95_mm == 0
    prediction[15:18] = prediction[5]
    assert score(prediction, slices=range(20)).hd95_mm == math.inf
    assert score(prediction).hd95_mm == pytest.approx(15.0)


@pytest.mark.parametrize("slices", [None, range(20)])
def test_a_structure_in_one_of_the_two_only_scores_nothing(slices):
    nothing = np.zeros_like(REFERENCE)
    for prediction, reference in ((nothing, REFERENCE), (REFERENCE, nothing)):
        result = score(prediction, reference, slices=slices)
        assert (result.dice, result.nsd, result.hd95_mm) == (0, 0, math.inf)


@pytest.mark.parametrize("slices", [None, range(20), []])
def test_a_structure_in_neither_has_no_score(slices):
    nothing = np.zeros_like(REFERENCE)
    result = score(nothing, nothing, slices=slices)
    assert math.isnan(result.dice) and math.isnan(result.nsd) and math.isnan(result.hd95_mm)


def test_a_structure_at_the_border_of_the_volume_has_a_surface_there():
    whole = np.ones_like(REFERENCE)
    assert score(whole, whole).nsd == 1
    assert score(whole, whole, slices=[0]).nsd == 1


def test_the_slabs_of_a_large_volume_join_without_a_seam(monkeypatch):
    prediction = box((11, 22), (9, 21), (4, 16))
    expected = score(prediction, nsd_tolerance_mm=2.0)
    monkeypatch.setattr("SAMAutoSegLib.evaluate.metrics._SLAB_VOXELS", 1000)
    assert score(prediction, nsd_tolerance_mm=2.0) == expected


def test_a_distance_equal_to_the_tolerance_is_within_it():
    fine = replace(GRID, spacing=(0.8, 0.8, 0.8))
    moved = box((12, 22), (10, 20), (5, 15))
    moved[17, 3:6, 3:6] = 1  # a contour without counterpart must not change the others
    at, beyond = (
        score_volume(moved, REFERENCE, fine, [ORGAN], nsd_tolerance_mm=tolerance, slices=range(20))
        for tolerance in (1.6, 1.7)
    )
    assert at == beyond
    assert at[0].nsd > 0.95


def test_structures_are_told_apart():
    other = Structure(2, "other", (0, 1, 0))
    labels = REFERENCE + box((25, 30), (10, 20), (5, 15), label=2)
    mixed = np.where(labels > 0, 1, 0).astype(np.uint8)
    first, second = score_volume(mixed, labels, GRID, [ORGAN, other])
    assert (first.name, second.name) == ("organ", "other")
    assert first.dice == pytest.approx(2 * 1000 / 2500)
    assert second.dice == 0


def scored(name: str, dice: float, nsd: float, hd95_mm: float) -> StructureScore:
    return StructureScore(name, 1, dice, nsd, hd95_mm, 10, 20)


def test_the_mean_leaves_absent_structures_out_and_keeps_missed_ones():
    nan, inf = math.nan, math.inf
    present, absent = scored("a", 0.8, 0.6, 2.0), scored("b", nan, nan, nan)
    mean = mean_score([present, absent, scored("c", 0.4, 0.2, 4.0)])
    assert (mean.name, mean.label) == ("mean", 0)
    assert (mean.dice, mean.nsd, mean.hd95_mm) == pytest.approx((0.6, 0.4, 3.0))
    assert (mean.reference_voxels, mean.predicted_voxels) == (30, 60)
    missed = mean_score([present, scored("c", 0.0, 0.0, inf)])
    assert (missed.dice, missed.hd95_mm) == (0.4, inf)
    assert math.isnan(mean_score([absent]).dice)


def test_json_has_neither_nan_nor_infinity():
    data = scored("a", 0.5, math.nan, math.inf).to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == {
        "name": "a",
        "label": 1,
        "dice": 0.5,
        "nsd": None,
        "hd95_mm": None,
        "reference_voxels": 10,
        "predicted_voxels": 20,
    }


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="grid"):
        score(REFERENCE[1:])
