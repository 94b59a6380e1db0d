import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels, check_weak_labels

GRID = Grid((30, 20, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
STACK = SliceStack(np.zeros((6, 20, 30), np.uint8), GRID, "axial")
STRUCTURES = [structure_named("liver", 5), structure_named("spleen", 1)]
PAINT = np.zeros((20, 30), bool)
PAINT[4:9, 5:12] = True


def check(*hints: Hint, number: int = 2, label: int = 5) -> list[str]:
    found = dict(zip((label, 1), hints, strict=False))
    return check_weak_labels(WeakLabels("axial", {number: found}), STACK, STRUCTURES)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Hint(points=((20, 3, 1),)), "point 20, 3 of liver in slice 2 lies outside of the image"),
        (Hint(points=((0, -1, -1),)), "outside of the image: expected rows 0 to 19 and columns 0"),
        (Hint(points=((3, 3, 0),)), "sign 0"),
        (Hint(boxes=((3, 4, 3, 9),)), "box 3, 4, 3, 9 of liver in slice 2 has no area"),
        (Hint(boxes=((3, 4, 9, 31),)), "leaves the image: expected rows 0 to 20 and columns 0 to"),
        (Hint(coarse=np.zeros((20, 30), bool)), "covers no pixel"),
        (Hint(coarse=PAINT.T), "30 x 20 pixels: expected 20 x 30"),
        (Hint(points=((3, 4, 1), (3, 4, -1))), "said to be inside and outside"),
        (Hint(points=((3, 4, 1),), boxes=((8, 8, 12, 12),)), "lies outside of its boxes"),
        (Hint(points=((3, 4, 1),), absent=True), "said to be absent"),
        (Hint(coarse=PAINT, absent=True), "said to be absent"),
        (Hint(coarse=PAINT, boxes=((9, 5, 12, 12),)), "paint of liver in slice 2 lies outside of"),
        (Hint(), "weak label of liver in slice 2 says nothing: give points, boxes, paint"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused_in_one_line(hint: Hint, words: str) -> None:
    with pytest.raises(SAMAutoSegError, match=words) as error:
        check(hint)
    assert "\n" not in str(error.value)


def test_a_pixel_cannot_lie_inside_two_structures() -> None:
    with pytest.raises(SAMAutoSegError, match=r"3, 4 of slice 2 .* inside liver and spleen"):
        check(Hint(points=((3, 4, 1),)), Hint(points=((3, 4, 1),)))


def test_a_slice_that_the_image_lacks_is_refused() -> None:
    with pytest.raises(SAMAutoSegError, match="slice 6: the image has axial slices 0 to 5"):
        check(Hint(points=((3, 4, 1),)), number=6)


def test_structures_of_which_nothing_is_said_are_told() -> None:
    (note,) = check(Hint(points=((3, 4, 1),)))
    assert "no weak label for spleen" in note
    assert check(Hint(points=((3, 4, 1),)), Hint(absent=True)) == []
    assert check_weak_labels(WeakLabels("axial"), STACK, STRUCTURES) == []


def test_a_structure_that_the_model_does_not_know_is_refused() -> None:
    hint = Hint(points=((3, 4, 1),))
    with pytest.raises(SAMAutoSegError, match="label 9 in slice 2 .* expected label 5 or 1"):
        check(hint, label=9)
    assert check_weak_labels(WeakLabels("axial", {2: {9: hint}}), STACK, None) == []


def test_weak_labels_of_another_plane_are_refused() -> None:
    with pytest.raises(SAMAutoSegError, match="are of coronal slices, but axial ones"):
        check_weak_labels(WeakLabels("coronal"), STACK, STRUCTURES)


def test_all_that_is_right_passes() -> None:
    check(Hint(((4, 5, 1), (0, 0, -1)), ((4, 5, 20, 30), (0, 0, 1, 1)), True, PAINT))


def test_hints_of_several_files_count_together() -> None:
    one = WeakLabels("axial", {1: {5: Hint(points=((3, 4, 1),))}, 2: {5: Hint(absent=True)}})
    more = WeakLabels("axial", {1: {5: Hint(coarse=PAINT), 1: Hint(boxes=((0, 0, 2, 2),))}})
    both = one.joined(more)
    assert both.of(1)[5].points == ((3, 4, 1),)
    assert np.array_equal(both.of(1)[5].coarse, PAINT)
    assert both.of(1)[1].boxes and both.of(2)[5].absent and not both.of(3)
    assert both.slices == [1]
    away = Hint(points=((3, 4, -1),))
    assert away.joined(Hint(absent=True)).absent and Hint(absent=True).joined(away).absent


def test_a_box_drawn_in_the_slice_says_more_than_a_region_in_space() -> None:
    drawn, region = Hint(boxes=((3, 3, 9, 9),)), Hint(boxes=((0, 0, 15, 15),), tight=False)
    for hint in (drawn.joined(region), region.joined(drawn)):
        assert hint.boxes == ((3, 3, 9, 9),) and hint.tight
    assert len(region.joined(Hint(boxes=((16, 16, 18, 18),), tight=False)).boxes) == 2


def test_of_paint_the_box_is_the_prompt_unless_there_are_boxes() -> None:
    assert Hint(coarse=PAINT).prompts == ((4, 5, 9, 12),)
    assert Hint(coarse=PAINT, boxes=((1, 2, 9, 14),)).prompts == ((1, 2, 9, 14),)
    assert Hint(points=((3, 4, 1),)).prompts == ()


def test_planes_do_not_mix() -> None:
    with pytest.raises(SAMAutoSegError, match="axial and of coronal"):
        WeakLabels("axial").joined(WeakLabels("coronal"))
