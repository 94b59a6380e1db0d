import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.weak_label_files import read_weak_labels
from SAMAutoSegLib.images.weak_labels import WeakLabels
from SAMAutoSegLib.images.write import write_segmentation

# Stored from left to right and from back to front, as NIfTI often is.
GRID = Grid((30, 20, 6), (1.0, 2.0, 4.0), (40.0, 60.0, -20.0), np.diag([-1.0, -1.0, 1.0]))
IMAGE = Volume(np.zeros((6, 20, 30), np.int16), GRID, "scan")
STRUCTURES = [structure_named("liver", 5), structure_named("spleen", 1)]


def read(*paths: Path) -> tuple[WeakLabels, list[str]]:
    return read_weak_labels(paths, IMAGE, "axial", STRUCTURES)


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), "utf-8")
    return path


def own(slices: Any, **more: Any) -> dict[str, Any]:
    head = {"format": "SAMAutoSeg weak labels", "version": 1, "plane": "axial"}
    return {**head, "slices": slices, **more}


def markups(tmp_path: Path, *markup: dict[str, Any], name: str = "F.mrk.json") -> Path:
    return written(tmp_path / name, {"@schema": "x", "markups": list(markup)})


def fiducials(
    *points: tuple[str, tuple[float, float, float]], system: str = "LPS"
) -> dict[str, Any]:
    """Points at voxels, or between them."""
    sense = np.array([-1, -1, 1, 1]) if system == "RAS" else np.ones(4)
    controls = [
        {"label": label, "position": list(((GRID.ijk_to_lps @ [*ijk, 1]) * sense)[:3])}
        for label, ijk in points
    ]
    return {"type": "Fiducial", "coordinateSystem": system, "controlPoints": controls}


def region(low: tuple[int, ...], high: tuple[int, ...], label: str = "liver") -> dict[str, Any]:
    """A region around the centers of the voxels from `low` to `high`, both inside."""
    ends = np.array([(GRID.ijk_to_lps @ [*corner, 1])[:3] for corner in (low, high)])
    size = np.abs(ends[1] - ends[0]) + 0.8 * np.array(GRID.spacing)
    return {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "center": list(ends.mean(0)),
        "orientation": [-1, 0, 0, 0, -1, 0, 0, 0, 1],
        "size": list(size),
        "controlPoints": [{"label": label, "position": list(ends.mean(0))}],
    }


def at(ijk: tuple[int, int, int]) -> tuple[int, int, int]:
    number, row, column = SliceStack(IMAGE.array, GRID, "axial").place_of(np.array(ijk))
    return int(number), int(row), int(column)


def test_the_json_format_is_read_as_documented(tmp_path: Path) -> None:
    slices = {
        "2": {
            "liver": {"points": [[3.6, 5.4, 1], [0, 0, -1]]},
            "1": {"boxes": [[3, 4, 9, 12]], "polygons": [[[3, 4], [3, 10], [8, 4]]]},
        },
        "3": {"Spleen": {"absent": True}},
    }
    labels, notes = read(written(tmp_path / "weak.json", own(slices)))
    assert labels.of(2)[5].points == ((4, 5, 1), (0, 0, -1))
    spleen = labels.of(2)[1]
    assert spleen.boxes == ((3, 4, 9, 12),) and spleen.tight
    assert spleen.coarse is not None and spleen.coarse[4, 5] and not spleen.coarse[8, 10]
    assert spleen.coarse[3, 10] and not spleen.coarse[10, 3]  # rows come first
    assert labels.of(3)[1].absent and labels.slices == [2] and not notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"slices": {}}, "holds no weak labels: expected"),
        ([], "expected a JSON object"),
        (own({"2": {"liver": {"points": [[4, 5]]}}}), "says, slice 2, liver: a point that is not"),
        (own({"2": {"liver": {"boxes": [[1, 2, 3]]}}}), "not as its format says"),
        (own({"2": {"liver": {"points": [[4, True, 1]]}}}), "not as its format says"),
        (own({"2": {"liver": {"box": [1, 2, 3, 4]}}}), "unknown entry 'box'"),
        (own({"2": {"liver": {"absent": "no"}}}), "absent 'no' is neither true nor false"),
        (own({"2": {"liver": {"points": []}}}), "liver in slice 2 says nothing"),
        (own({"two": {"liver": {}}}), "says, slice two: no slice number; expected is"),
        (own({"2": {"liver": [1]}}), "says, slice 2, liver: "),
        (own([1]), "says, the entry 'slices': missing, or of another kind"),
        (own({"2": {"lung": {}}}), "'lung', which the model does not know: expected liver, spleen"),
        (own({"2": {"liver": {"polygons": [[[1, 1], [2, 50], [3, 3]]]}}}), "outside of the image"),
        (own({"9": {"liver": {"points": [[1, 1, 1]]}}}), "slice 9: the image has axial slices"),
        (own({}, plane="coronal"), "about coronal slices, the model sees axial ones"),
        (own({}, version=2), "holds no weak labels"),
    ],
)
def test_json_that_is_not_of_the_format_is_refused(
    tmp_path: Path, content: Any, words: str
) -> None:
    with pytest.raises(SAMAutoSegError, match=words) as error:
        read(written(tmp_path / "weak.json", content))
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="does not exist"):
        read(tmp_path / "none.json")
    (tmp_path / "weak.json").write_text("{")
    with pytest.raises(SAMAutoSegError, match="is no JSON"):
        read(tmp_path / "weak.json")


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_points_of_slicer_fall_on_their_pixels(tmp_path: Path, system: str) -> None:
    points = fiducials(("liver-1", (7.3, 2.6, 2.4)), ("not liver-4", (29, 0, 2)), system=system)
    unset = {"label": "liver-2", "position": [0, 0, 0], "positionStatus": "undefined"}
    points["controlPoints"].append(unset)
    labels, notes = read(markups(tmp_path, points))
    number, *inside = at((7, 3, 2))
    _, *outside = at((29, 0, 2))
    assert set(labels.of(number)[5].points) == {(*inside, 1), (*outside, -1)}
    assert "no weak label for spleen" in notes[0]


def test_the_name_of_the_file_stands_in_for_that_of_a_point(tmp_path: Path) -> None:
    labels, _ = read(markups(tmp_path, fiducials(("F-1", (7, 3, 2))), name="spleen.mrk.json"))
    assert list(labels.of(2)) == [1]
    with pytest.raises(SAMAutoSegError, match="marks 'F-1'"):
        read(markups(tmp_path, fiducials(("F-1", (7, 3, 2)))))


def test_a_point_outside_of_the_image_is_refused(tmp_path: Path) -> None:
    for ijk in ((7, 3, 6), (31, 3, 2)):
        with pytest.raises(SAMAutoSegError, match="outside of the image"):
            read(markups(tmp_path, fiducials(("liver-1", ijk))))


def test_a_region_says_where_a_structure_is_and_where_it_is_not(tmp_path: Path) -> None:
    labels, _ = read(markups(tmp_path, region((7, 3, 1), (12, 9, 3))))
    _, row0, column0 = np.minimum(at((7, 3, 1)), at((12, 9, 3)))
    _, row1, column1 = np.maximum(at((7, 3, 1)), at((12, 9, 3))) + 1
    for number in range(6):
        hint = labels.of(number)[5]
        if 1 <= number <= 3:
            assert hint.boxes == ((row0, column0, row1, column1),) and not hint.tight
        else:
            assert hint.absent and not hint.boxes
    assert labels.slices == [1, 2, 3]


def test_two_regions_of_a_structure_count_together(tmp_path: Path) -> None:
    labels, _ = read(
        markups(tmp_path, region((2, 2, 1), (5, 5, 2)), region((9, 9, 2), (12, 12, 4)))
    )
    assert [len(labels.of(n)[5].boxes) for n in range(6)] == [0, 1, 2, 1, 1, 0]
    assert [labels.of(n)[5].absent for n in range(6)] == [True, *[False] * 4, True]


def test_regions_of_one_structure_may_lie_in_files_of_their_own(tmp_path: Path) -> None:
    regions = region((2, 2, 1), (5, 5, 2)), region((9, 9, 2), (12, 12, 4))
    together, _ = read(markups(tmp_path, *regions))
    point = markups(tmp_path, fiducials(("liver", (3, 3, 1))), name="P.mrk.json")
    one, other = (markups(tmp_path, each, name=f"{n}.mrk.json") for n, each in enumerate(regions))
    for files in ((point, other, one), (one, point, other), (other, one, point)):
        apart, _ = read(*files)
        for number in range(len(SliceStack(IMAGE.array, GRID, "axial"))):
            wanted, found = together.of(number)[5], apart.of(number)[5]
            assert ({*found.boxes}, found.absent) == ({*wanted.boxes}, wanted.absent)


def test_a_region_is_cut_to_the_image_and_refused_outside_of_it(tmp_path: Path) -> None:
    labels, _ = read(markups(tmp_path, region((-5, 3, 1), (40, 9, 9))))
    assert labels.of(5)[5].boxes[0][1::2] == (0, 30)
    with pytest.raises(SAMAutoSegError, match="holds no voxel of the image"):
        read(markups(tmp_path, region((40, 3, 1), (45, 9, 2))))
    flat = region((7, 3, 1), (12, 9, 3)) | {"size": [10.0, 0.0, 10.0]}
    with pytest.raises(SAMAutoSegError, match="has no size"):
        read(markups(tmp_path, flat))


def test_other_markups_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="of type Curve"):
        read(markups(tmp_path, {"type": "Curve"}))
    with pytest.raises(SAMAutoSegError, match="is damaged or of another kind"):
        read(
            markups(
                tmp_path,
                {"type": "ROI", "coordinateSystem": "LPS", "size": [1]},
                name="liver.mrk.json",
            )
        )


def test_rough_paint_is_matched_by_name(tmp_path: Path) -> None:
    paint = np.zeros((6, 20, 30), np.uint8)
    paint[2, 3:9, 4:12] = 1
    path = tmp_path / "paint.seg.nrrd"
    write_segmentation(path, paint, GRID, [structure_named("liver", 1)])
    labels, _ = read(path)
    assert list(labels.hints) == [2] and list(labels.of(2)) == [5]
    shown = SliceStack(paint, GRID, "axial").slice_at(2) == 1
    assert np.array_equal(labels.of(2)[5].coarse, shown)


def test_paint_on_another_grid_is_refused(tmp_path: Path) -> None:
    other = Grid((30, 20, 6), (1.0, 2.0, 5.0), GRID.origin, GRID.direction)
    path = tmp_path / "paint.nii.gz"
    write_segmentation(path, np.ones((6, 20, 30), np.uint8), other, [structure_named("liver", 1)])
    with pytest.raises(SAMAutoSegError, match="is not on the grid"):
        read(path)


def test_points_and_paint_of_two_files_come_together(tmp_path: Path) -> None:
    paint = np.zeros((6, 20, 30), np.uint8)
    paint[2, 3:9, 4:12] = 5
    path = tmp_path / "paint.nii.gz"
    write_segmentation(path, paint, GRID, [structure_named("liver", 5)])
    labels, _ = read(path, markups(tmp_path, fiducials(("liver", (7, 3, 2)))))
    assert labels.of(2)[5].points and labels.of(2)[5].coarse is not None


@pytest.mark.parametrize(
    ("names", "label", "file", "expected"),
    [
        (("lesion", "lesion 2"), "lesion 2", "F", ("lesion 2", 1)),
        (("lesion", "lesion 2"), "lesion-3", "F", ("lesion", 1)),
        (("label 1", "label 2"), "label 2", "F", ("label 2", 1)),
        (("Segment_1", "Segment_2"), "F-1", "Segment_2", ("Segment_2", 1)),
        (("Segment_1", "Segment_2"), "not Segment_2-4", "F", ("Segment_2", -1)),
        (("liver", "spleen"), "not-1", "spleen", ("spleen", -1)),
        (("liver", "spleen"), "Not", "liver", ("liver", -1)),
        (("liver",), "not spleen", "liver", None),
        (("liver",), "not spleen-1", "liver", None),
    ],
)
def test_a_point_is_about_what_its_whole_name_says(
    tmp_path: Path,
    names: tuple[str, ...],
    label: str,
    file: str,
    expected: tuple[str, int] | None,
) -> None:
    structures = [structure_named(name, 10 + n) for n, name in enumerate(names)]
    path = markups(tmp_path, fiducials((label, (3, 4, 2))), name=f"{file}.mrk.json")
    if expected is None:
        with pytest.raises(SAMAutoSegError, match="which the model does not know"):
            read_weak_labels([path], IMAGE, "axial", structures)
        return
    found, _ = read_weak_labels([path], IMAGE, "axial", structures)
    ((value, hint),) = found.hints[2].items()
    assert names[value - 10] == expected[0] and hint.points[0][2] == expected[1]


def test_what_says_two_things_or_the_opposite_is_refused(tmp_path: Path) -> None:
    twice = own({"2": {"liver": {"boxes": [[1, 1, 5, 5]]}, "5": {"boxes": [[2, 2, 6, 6]]}}})
    with pytest.raises(SAMAutoSegError, match="slice 2, 5: named twice"):
        read(written(tmp_path / "twice.json", twice))
    turned = region((3, 4, 1), (9, 8, 2)) | {"insideOut": True}
    with pytest.raises(SAMAutoSegError, match="is inside out: switch that off"):
        read(markups(tmp_path, turned))
