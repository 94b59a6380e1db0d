"""The benchmarks take hours; what can be known of them in a second is tested."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from SAMAutoSegLib.adapt.self_prompts import deepest
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.sam.points_by_boxes import predict_points_by_boxes
from SAMAutoSegLib.sam.predictor import ClickPredictor

FOLDER = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(FOLDER.rglob("*.py"))


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """As Python starts a script: the modules in its folder can be imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER / "few_shot")
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(FOLDER):
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_can_be_asked_for_its_options(script, monkeypatch, capsys):
    if "__main__" not in script.read_text(encoding="utf-8"):
        runpy.run_path(str(script))
        return
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_the_names_of_all_contenders_can_be_given_in_one_list(monkeypatch):
    contenders = runpy.run_path(str(FOLDER / "few_shot" / "contenders.py"))["CONTENDERS"]
    assert ",".join(contenders).split(",") == list(contenders)


@pytest.mark.parametrize(
    ("option", "names", "told"),
    [
        ("--methods", "joint,best", "no such method: best;"),
        ("--schemes", "spread,near", "no such scheme: near;"),
    ],
)
def test_an_unknown_contender_or_scheme_is_named_before_anything_is_computed(
    option, names, told, monkeypatch, tmp_path, capsys
):
    run = FOLDER / "few_shot" / "run.py"
    asked = [option, names, "--results", str(tmp_path / "results.jsonl")]
    monkeypatch.setattr(sys, "argv", [str(run), *asked])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(run), run_name="__main__")
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_an_interval_is_told_of_five_pairs_and_of_no_fewer():
    difference = runpy.run_path(str(FOLDER / "few_shot" / "report.py"))["_difference"]
    one, other = ({seed: {"dice": dice} for seed in range(5)} for dice in (0.75, 0.5))
    assert difference(one, other) == "+0.250 [+0.250, +0.250]"
    del other[4]
    assert difference(one, other) == "+0.250"


@pytest.mark.parametrize("given", [True, False])
def test_a_missing_set_is_named_before_anything_is_computed(given, monkeypatch, tmp_path, capsys):
    run = FOLDER / "few_shot" / "run.py"
    asked = ["--sets", "hippocampus", *(["--data", str(tmp_path)] if given else [])]
    results = tmp_path / "results.jsonl"
    monkeypatch.delenv("SAMAUTOSEG_BENCHMARK_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", [str(run), *asked, "--results", str(results)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(run), run_name="__main__")
    assert left.value.code == 2 and not results.exists()
    told = capsys.readouterr().err
    where = f"no folder hippocampus_mr in {tmp_path};" if given else "no folder hippocampus_mr;"
    assert where in told and "--data" in told and "SAMAUTOSEG_BENCHMARK_DATA" in told


def test_a_point_in_the_middle_of_its_largest_part_prompts_each_structure(tiny_backbone, picture):
    points = runpy.run_path(str(FOLDER / "few_shot" / "contenders.py"))["prompt_with_points"]
    grid = Grid((40, 30, 3), (0.8, 0.8, 5.0), (0.0, 0.0, 0.0), np.eye(3))
    images = SliceStack(np.stack([picture(30, 40, seed=n) for n in range(3)]), grid)
    reference = SliceStack(np.zeros((3, 30, 40), np.uint8), grid)
    reference.slice_at(1)[5:12, 8:20] = 4
    reference.slice_at(1)[20:22, 30:33] = 4
    backbone = tiny_backbone()
    found = points(images, reference, backbone, slices=[0, 1])
    predictor = ClickPredictor(backbone)
    predictor.set_image(images.slice_at(1))
    row, column = deepest(reference.slice_at(1)[:15] == 4)
    click = np.array([[column, row]], float)
    answer = predict_points_by_boxes(predictor, click, np.array([1]), images.slice_shape)
    assert answer.masks[0].any()
    assert np.array_equal(found[1], np.where(answer.masks[0], 4, 0))
    assert not found[[0, 2]].any()


def test_a_training_that_is_refused_is_left_out_and_the_others_follow(
    tiny_backbone, picture, monkeypatch, tmp_path, capsys
):
    import image_sets

    grid = Grid((40, 30, 3), (0.8, 0.8, 5.0), (0.0, 0.0, 0.0), np.eye(3))
    image = Volume(np.stack([picture(30, 40, seed=n) for n in range(3)]), grid, "image")
    labels = Volume(np.zeros((3, 30, 40), np.uint8), grid, "labels")
    labels.array[1:, 5:12, 8:20] = 1
    # The first of them, which is the half, shows nothing.
    labeled, tested = (LabeledVolume(image, labels, slices) for slices in ((0, 1), (2,)))
    images = image_sets.ImageSet("own", "axial", [structure_named("liver", 1)], [], [])
    monkeypatch.setattr(image_sets, "load_set", lambda *_: images)
    monkeypatch.setattr(image_sets, "draw", lambda *_: image_sets.Draw([labeled], [tested]))
    monkeypatch.setattr("SAMAutoSegLib.sam.fetch.fetched", lambda source: source)
    monkeypatch.setattr("SAMAutoSegLib.sam.checkpoint.load_backbone", lambda _: tiny_backbone())
    run, results = FOLDER / "few_shot" / "run.py", tmp_path / "results.jsonl"
    asked = ["--sets", "own", "--schemes", "volume", "--counts", "2", "--seeds", "1"]
    asked += ["--methods", "joint on half,boxes (oracle)", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [str(run), *asked])
    runpy.run_path(str(run), run_name="__main__")
    (line,) = results.read_text().splitlines()
    assert json.loads(line)["method"] == "boxes (oracle)"
    told = capsys.readouterr().out
    assert "left out: own, volume, seed 0, joint on half: none of the 1 labeled slices" in told
