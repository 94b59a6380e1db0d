import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid
from SAMAutoSegLib.images.write import write_segmentation

GRID = Grid((12, 10, 4), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), np.eye(3))


def labels(first: int, second: int) -> np.ndarray:
    array = np.zeros((4, 10, 12), np.uint8)
    array[1:3, 2:6, 2:6] = first
    array[1:3, 2:6, 7:11] = second
    return array


def write(
    path: Path, array: np.ndarray, names: dict[int, str] | None = None, grid: Grid = GRID
) -> str:
    values = [int(value) for value in np.unique(array) if value]
    structures = [structure_named((names or {}).get(v, f"label {v}"), v) for v in values]
    write_segmentation(path, array, grid, structures)
    return str(path)


def scores(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def dice(report: dict[str, Any]) -> dict[str, float]:
    return {score["name"]: score["dice"] for score in report["structures"]}


def test_a_segmentation_agrees_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.nii.gz", labels(1, 2))
    report = scores([path, path], capsys)
    assert dice(report) == {"label 1": 1.0, "label 2": 1.0}
    assert report["mean"]["nsd"] == 1.0 and report["mean"]["hd95_mm"] == 0.0


def test_named_structures_are_matched_by_name_whatever_their_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = write(tmp_path / "p.seg.nrrd", labels(2, 1), {2: "Spleen", 1: "liver"})
    reference = write(tmp_path / "r.seg.nrrd", labels(1, 5), {1: "spleen", 5: "liver"})
    assert dice(scores([prediction, reference], capsys)) == {"spleen": 1.0, "liver": 1.0}


def test_without_names_on_one_side_the_label_value_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = write(tmp_path / "p.seg.nrrd", labels(1, 2), {1: "spleen", 2: "liver"})
    reference = write(tmp_path / "r.nii.gz", labels(1, 5))
    report = scores([prediction, reference], capsys)
    assert dice(report) == {"spleen": 1.0, "label 5": 0.0}
    assert report["not_scored"] == ["liver"]


def test_chosen_structures_alone_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.seg.nrrd", labels(1, 2), {1: "spleen", 2: "liver"})
    assert list(dice(scores([path, path, "--structures", "Liver"], capsys))) == ["liver"]
    assert list(dice(scores([path, path, "--structures", "2, 1"], capsys))) == ["liver", "spleen"]
    assert main(["evaluate", path, path, "--structures", "heart"]) == 2
    assert "'heart' is not in the reference; there: 1 (spleen)" in capsys.readouterr().err


def test_chosen_slices_alone_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = labels(1, 0)
    prediction = reference.copy()
    prediction[2] = 0
    paths = [write(tmp_path / "p.nii.gz", prediction), write(tmp_path / "r.nii.gz", reference)]
    assert dice(scores(paths, capsys))["label 1"] == pytest.approx(2 / 3)
    report = scores([*paths, "--slices", "1"], capsys)
    assert dice(report)["label 1"] == 1.0 and report["slices"] == [1]
    assert main(["evaluate", *paths, "--slices", "4"]) == 2
    assert "slice 4 is out of range" in capsys.readouterr().err


def test_the_table_names_structures_and_tolerance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.seg.nrrd", labels(1, 2), {1: "spleen", 2: "liver"})
    assert main(["evaluate", path, path, "--nsd-tolerance", "3"]) == 0
    told = capsys.readouterr().out
    assert "spleen" in told and "mean" in told and "NSD at 3 mm" in told


def test_grids_that_differ_are_an_error_that_says_in_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Grid(GRID.size, (1.0, 1.0, 2.5), GRID.origin, GRID.direction)
    first = write(tmp_path / "p.nii.gz", labels(1, 2))
    second = write(tmp_path / "r.nii.gz", labels(1, 2), grid=other)
    assert main(["evaluate", first, second]) == 2
    told = capsys.readouterr().err
    assert "p.nii.gz is not on the grid of" in told and told.count("\n") == 1
    assert "spacing 1 x 1 x 3 against 1 x 1 x 2.5" in told


@pytest.mark.parametrize("tolerance", ["0", "-1", "nan"])
def test_a_tolerance_that_is_not_positive_is_refused(
    tolerance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.nii.gz", labels(1, 2))
    assert main(["evaluate", path, path, f"--nsd-tolerance={tolerance}"]) == 2
    assert "expected more than 0 mm" in capsys.readouterr().err


def test_a_reference_that_holds_nothing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = write(tmp_path / "a.nii.gz", labels(1, 2))
    empty = write(tmp_path / "empty.nii.gz", np.zeros_like(labels(1, 2)))
    assert main(["evaluate", found, empty]) == 2
    told = capsys.readouterr()
    assert "empty.nii.gz holds nothing but background" in told.err and not told.out
    assert main(["evaluate", found, found, "--slices", "0"]) == 0
    assert "a.nii.gz holds none of them there" in capsys.readouterr().out
    assert main(["evaluate", found, found]) == 0
    assert "holds none" not in capsys.readouterr().out


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.nii.gz", labels(1, 2))
    assert main(["evaluate", str(tmp_path / "none.nii.gz"), path]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_cropped_to_its_segments_is_scored_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = labels(1, 2)
    grid = Grid((10, 4, 2), GRID.spacing, (2.0, 2.0, 3.0), GRID.direction)
    cropped = write(tmp_path / "c.nii.gz", whole[1:3, 2:6, 2:12].copy(), grid=grid)
    reference = write(tmp_path / "r.nii.gz", whole)
    report = scores([cropped, reference], capsys)
    assert dice(report) == {"label 1": 1.0, "label 2": 1.0}
    assert scores([reference, cropped], capsys)["mean"] == report["mean"]
    # Slices are numbered in the file that holds the other.
    assert scores([cropped, reference, "--slices", "2"], capsys)["structures"][0]["dice"] == 1.0


def test_segments_of_one_name_are_matched_once_each_the_same_value_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {1: "kidney", 2: "kidney"}
    prediction = write(tmp_path / "p.seg.nrrd", labels(1, 2), both)
    report = scores([prediction, prediction], capsys)
    assert [score["dice"] for score in report["structures"]] == [1.0, 1.0]
    one = write(tmp_path / "one.seg.nrrd", labels(0, 2), {2: "kidney"})
    report = scores([one, prediction], capsys)
    assert [score["dice"] for score in report["structures"]] == [0.0, 1.0]


def test_segments_that_overlap_are_scored_each_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_layers: Callable[..., None]
) -> None:
    organ, lesion = labels(1, 1), np.zeros_like(labels(1, 1))
    lesion[1:3, 3:5, 3:5] = 1
    names = [("organ", 1, 0), ("lesion", 1, 1)]
    write_layers(tmp_path / "p.seg.nrrd", [organ, lesion], names, GRID)
    reference = write(tmp_path / "r.seg.nrrd", organ, {1: "organ"})
    assert dice(scores([str(tmp_path / "p.seg.nrrd"), reference], capsys)) == {"organ": 1.0}


def test_an_axis_without_slices_is_no_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.nii.gz", labels(1, 2))
    assert main(["evaluate", path, path, "--axis", "coronal"]) == 2
    assert "--axis coronal without --slices" in capsys.readouterr().err
