"""Requests to the real engine process."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAMAutoSegLib.adapt.adapted_file import load_adapted
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.volume import Grid
from SAMAutoSegLib.sam import architecture
from SAMAutoSegLib.sam.architecture import ViTShape
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.predictor import ClickPredictor
from SAMAutoSegLib.segment.corrected import CorrectedSlices
from SAMAutoSegLib.segment.refinement import Refinement
from SAMAutoSegLib.segment.volume import segment_volume

from .conftest import Driver, Files


@pytest.fixture
def volume(engine: Driver, files: Files) -> str:
    return engine.result("open_volume", **files.opening())["volume"]


@pytest.fixture
def long_volume(engine: Driver, files: Files) -> str:
    """A volume that takes a while, none of it encoded yet."""
    array = np.random.default_rng().normal(100, 40, (150, 30, 40)).astype(np.int16)
    opening = {**files.opening(), "array": array, "size": [40, 30, 150]}
    return engine.result("open_volume", **opening)["volume"]


def test_a_process_says_what_it_is(engine: Driver) -> None:
    engine.ask("devices")
    assert engine.states[:2] == ["starting", "ready"] and engine.client.pid
    assert engine.client.state == "ready"


def test_devices_are_told_in_words(engine: Driver) -> None:
    told = engine.result("devices")
    assert told["devices"][0]["name"] == "cpu" and "cores" in told["devices"][0]["words"]
    assert told["chosen"] in [device["name"] for device in told["devices"]]


def test_a_volume_is_segmented_as_by_the_library(engine: Driver, files: Files, volume: str) -> None:
    answers = engine.ask("segment", **files.segmenting(volume))
    assert answers.result is not None
    assert np.array_equal(answers.result["labels"], files.labels)
    assert answers.result["slices_done"] == list(range(12)) and answers.result["notes"] == []
    assert "busy" in engine.states and engine.client.state == "ready"


def test_slices_come_as_they_are_done(engine: Driver, files: Files, volume: str) -> None:
    answers = engine.ask("segment", **files.segmenting(volume, axis="axial", slices=[2, 5]))
    assert answers.result is not None and answers.result["axis"] == "axial"
    stack = SliceStack(answers.result["labels"], files.volume.grid, "axial")
    assert list(answers.slices) == [2, 5]
    for number, labels in answers.slices.items():
        assert np.array_equal(labels, stack.slice_at(number))
    assert not stack.slice_at(3).any()


def test_how_uncertain_the_labels_are_is_told_on_request(
    engine: Driver, files: Files, volume: str
) -> None:
    told = engine.result("segment", **files.segmenting(volume, slices=[2, 5], uncertainty=True))
    array, by_slice = told["uncertainty"]["array"], told["uncertainty"]["per_slice"]
    stack = SliceStack(array, files.volume.grid, "axial")
    assert set(by_slice) == {"2", "5"} and not stack.slice_at(3).any()
    for number, expected in by_slice.items():
        found = stack.slice_at(int(number)).sum() / 255
        assert 0 < found == pytest.approx(expected, rel=0.02)
    assert "uncertainty" not in engine.result("segment", **files.segmenting(volume, slices=[2]))


def test_a_prediction_is_refined_on_request_as_by_the_library(
    engine: Driver, files: Files, volume: str, tiny_vit_b: ViTShape
) -> None:
    adapted = load_adapted(files.model, base=files.base, device="cpu")
    expected = segment_volume(files.volume, adapted, refinement=Refinement(2)).labels
    told = engine.result("segment", **files.segmenting(volume, refine=2))
    assert np.array_equal(told["labels"], expected)
    assert not np.array_equal(expected, files.labels)
    assert told["refined"]["refinement kept"] > 0
    assert "refined" not in engine.result("segment", **files.segmenting(volume))


def test_the_pass_to_keep_of_a_refinement_can_be_chosen(
    engine: Driver, files: Files, volume: str, tiny_vit_b: ViTShape
) -> None:
    first = engine.result("segment", **files.segmenting(volume))["labels"]
    adapted = load_adapted(files.model, base=files.base, device="cpu")
    for kept in (0, 1):
        told = engine.result("segment", **files.segmenting(volume, refine=2, keep_iteration=kept))
        expected = segment_volume(files.volume, adapted, refinement=Refinement(2, kept)).labels
        assert np.array_equal(told["labels"], expected)
        assert np.array_equal(told["labels"], first) == (kept == 0)
    refused = engine.refusal("segment", **files.segmenting(volume, refine=1, keep_iteration=2))
    assert "2 cannot be kept: expected 0 to 1" in refused


def test_corrected_slices_stay_and_the_others_follow_as_by_the_library(
    engine: Driver, files: Files, volume: str, tiny_vit_b: ViTShape
) -> None:
    adapted = load_adapted(files.model, base=files.base, device="cpu")
    labels = np.zeros(files.volume.array.shape, np.uint8)
    stack = SliceStack(labels, files.volume.grid, "axial")
    for number in (3, 7):
        stack.slice_at(number)[5:15, 5:20] = adapted.card.structures[0].label
    given = {"corrected_slices": [7, 3], "corrected": np.stack([stack.slice_at(7)] * 2)}
    told = engine.result("segment", **files.segmenting(volume, axis="axial", **given))
    expected = segment_volume(
        files.volume, adapted, axis="axial", corrected=CorrectedSlices(labels, (3, 7))
    ).labels
    assert np.array_equal(told["labels"], expected)
    found = SliceStack(told["labels"], files.volume.grid, "axial")
    assert np.array_equal(found.slice_at(3), stack.slice_at(3))


def test_progress_goes_from_nothing_to_all(engine: Driver, files: Files, long_volume: str) -> None:
    started = time.monotonic()
    answers = engine.ask("segment", **files.segmenting(long_volume))
    seconds = time.monotonic() - started
    fractions = [fraction for fraction, _, _ in answers.progress]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert answers.progress[0][1] == "loading the model"
    assert answers.progress[-1][1:] == ("segmenting: 150 of 150 slices", 0.0)
    # A machine so quick that it is over before there is a pace to tell from is not at fault.
    assert any(left for _, _, left in answers.progress) or seconds < 1


def test_region_intensity_and_cleanup_are_obeyed(engine: Driver, files: Files, volume: str) -> None:
    region = [[5, 30], [4, 28], [2, 9]]
    chosen: dict[str, Any] = {
        "roi": region,
        "intensity": "percentile:1,99",
        "cleanup": {"largest_component": True},
        "precision": "float32",
    }
    answers = engine.ask("segment", **files.segmenting(volume, **chosen))
    assert answers.result is not None
    labels = answers.result["labels"]
    assert {shown.shape for shown in answers.slices.values()} == {(30, 40)}
    inside = labels[2:9, 4:28, 5:30]
    assert inside.any() and np.count_nonzero(inside) == np.count_nonzero(labels)
    assert not np.array_equal(inside, files.labels[2:9, 4:28, 5:30])


def test_cancelling_keeps_the_slices_that_are_done(
    engine: Driver, files: Files, long_volume: str
) -> None:
    pending, answers = engine.send("segment", **files.segmenting(long_volume))
    engine.pump_until(lambda: len(answers.slices) >= 2)
    pending.cancel()
    engine.pump_until(lambda: answers.ended)
    assert answers.cancelled is not None and pending.done
    done = answers.cancelled["slices_done"]
    assert 2 <= len(done) < 150 and done == list(answers.slices)
    for number in done:
        stack = SliceStack(answers.cancelled["labels"], _long(files), "axial")
        assert np.array_equal(stack.slice_at(number), answers.slices[number])


def _long(files: Files) -> Grid:
    grid = files.volume.grid
    return Grid((40, 30, 150), grid.spacing, grid.origin, grid.direction)


def test_what_waits_is_cancelled_at_once(
    engine: Driver, files: Files, long_volume: str, volume: str
) -> None:
    running, first = engine.send("segment", **files.segmenting(long_volume))
    waiting, second = engine.send("segment", **files.segmenting(volume))
    waiting.cancel()
    engine.pump_until(lambda: second.ended)
    assert second.cancelled == {} and not first.ended
    running.cancel()
    engine.pump_until(lambda: first.ended)


def test_a_click_is_answered_while_a_volume_is_segmented(
    engine: Driver, files: Files, long_volume: str, volume: str
) -> None:
    running, segmented = engine.send("segment", **files.segmenting(long_volume))
    engine.pump_until(lambda: bool(segmented.slices))
    clicked = engine.ask("click", **files.clicking(volume, points=[[10, 12, 1]]))
    assert clicked.result is not None and not segmented.ended
    running.cancel()
    engine.pump_until(lambda: segmented.ended)
    assert segmented.cancelled is not None and len(segmented.slices) < 150


@pytest.fixture
def predictor(files: Files, monkeypatch: pytest.MonkeyPatch) -> ClickPredictor:
    """Of the library itself, on slice 3."""
    shape = ViTShape(dim=32, depth=2, heads=2, global_blocks=(1,))
    monkeypatch.setitem(architecture.VIT_SHAPES, "vit_b", shape)
    predictor = ClickPredictor(load_backbone(files.base, device="cpu"))
    gray = np.clip(files.volume.array, 0, 255).astype(np.uint8)
    shown = SliceStack(gray, files.volume.grid, "axial")
    predictor.set_image(shown.slice_at(3))
    return predictor


def test_a_first_click_takes_the_surest_of_three_masks(
    engine: Driver, files: Files, volume: str, predictor: ClickPredictor
) -> None:
    clicking = files.clicking(volume, intensity="0,255", points=[[10, 12, 1]])
    found = engine.result("click", **clicking)
    expected = predictor.predict(np.array([[12, 10]]), np.array([1]))
    best = int(expected.iou.argmax())
    assert found["score"] == pytest.approx(float(expected.iou[best]), abs=1e-4)
    assert found["mask"].shape == (30, 40)
    assert (found["mask"] != expected.masks[best]).mean() < 0.01


def test_points_box_and_mask_refine_together(
    engine: Driver, files: Files, volume: str, predictor: ClickPredictor
) -> None:
    points, box = [[10, 12, 1], [25, 30, -1]], [2, 4, 20, 33]
    shown = {"intensity": "0,255", "points": points, "box": box}
    found = engine.result("click", **files.clicking(volume, **shown))
    where = np.array([[12, 10], [30, 25]])
    expected = predictor.predict(where, np.array([1, 0]), np.array([4, 2, 33, 20]), multimask=False)
    assert (found["mask"] != expected.masks[0]).mean() < 0.01
    mask = np.zeros((30, 40), bool)
    mask[5:15, 5:20] = True
    refined = engine.result("click", **files.clicking(volume, **shown, mask=mask))
    assert refined["score"] != pytest.approx(found["score"], abs=1e-6)


def test_an_adapted_model_is_clicked_with_on_its_own_backbone(
    engine: Driver, files: Files, volume: str
) -> None:
    plain = files.clicking(volume, points=[[10, 12, 1]])
    adapted = {**plain, "backbone": str(files.model), "base": str(files.base)}
    by_window = engine.result("click", **plain, intensity="0,255")
    assert np.array_equal(engine.result("click", **adapted)["mask"], by_window["mask"])


def test_slices_around_the_one_in_view_are_encoded_ahead(
    engine: Driver, files: Files, long_volume: str
) -> None:
    kept = files.folder / "cache" / "embeddings"
    before = len(list(kept.iterdir())) if kept.exists() else 0
    engine.result("prepare_clicks", **files.clicking(long_volume, number=50))
    engine.pump_until(lambda: len(list(kept.iterdir())) >= before + 17)
    assert len(list(kept.iterdir())) == before + 17  # itself and eight to each side


def test_an_estimate_needs_a_model_with_structures(
    engine: Driver, files: Files, volume: str
) -> None:
    seconds = engine.result("estimate", **files.segmenting(volume))["seconds"]
    assert 0 < seconds < 600
    assert engine.result("estimate", **files.segmenting(volume))["seconds"] == seconds
    assert (files.folder / "cache" / "pace.json").exists()
    plain = {**files.segmenting(volume), "model": str(files.base)}
    assert "knows no structures" in engine.refusal("estimate", **plain)


def test_a_run_that_encodes_its_slices_mends_the_estimate(
    engine: Driver, files: Files, long_volume: str
) -> None:
    def estimate() -> float:
        return engine.result("estimate", **files.segmenting(long_volume))["seconds"]

    first = estimate()
    kept = files.folder / "cache" / "pace.json"
    # Other tests may have computed in another precision, which has a pace of its own.
    slow = dict.fromkeys(json.loads(kept.read_text()), 1000.0)
    kept.write_text(json.dumps({**slow, "another device": 2.0}))  # it was busy with others
    engine.result("segment", **files.segmenting(long_volume, slices=[3, 4]))  # too few
    assert estimate() == 150_000
    encoded = files.segmenting(long_volume, slices=list(range(10, 20)))
    engine.result("segment", **encoded)
    mended = estimate()
    assert 0 < mended < 100 * max(first, 1)
    assert json.loads(kept.read_text())["another device"] == 2.0
    engine.result("segment", **encoded)  # from kept embeddings, which says nothing
    assert estimate() == mended
    kept.write_text(json.dumps(slow))
    engine.result("segment", **files.segmenting(long_volume, slices=list(range(17, 29))))
    assert estimate() < 100 * max(first, 1)  # three of twelve were kept


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"volume": "gone"}, "volume 'gone' is not open"),
        ({"axis": "skew"}, "unknown axis 'skew'"),
        ({"slices": [99]}, "slice 99 is out of range"),
        ({"roi": [[0, 400], [0, 30], [0, 12]]}, "region i = 0:400"),
        ({"intensity": "bright"}, "cannot read intensity 'bright'"),
        ({"corrected_slices": [1]}, "corrected slices [1] with labels of (0,)"),
        (
            {"corrected_slices": [99], "corrected": np.zeros((1, 30, 40), np.uint8)},
            "expected (1, 30, 40) and numbers below 12",
        ),
        ({"cleanup": {"polish": 1}}, "clean-up 'polish' is not known"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"precision": "float8"}, "precision 'float8'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    engine: Driver, files: Files, volume: str, changes: dict[str, Any], told: str
) -> None:
    assert told in engine.refusal("segment", **{**files.segmenting(volume), **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "without a point, a box or a mask"),
        ({"slice": 12, "points": [[1, 1, 1]]}, "slice 12 is out of range"),
        ({"points": [[30, 1, 1]]}, "is outside of the slice of 30 x 40"),
        ({"mask": np.zeros((3, 3), bool)}, "a mask of (3, 3)"),
    ],
)
def test_a_click_that_hits_nothing_is_told(
    engine: Driver, files: Files, volume: str, changes: dict[str, Any], told: str
) -> None:
    assert told in engine.refusal("click", **{**files.clicking(volume), **changes})


@pytest.mark.parametrize(
    ("array", "size", "told"),
    [
        (np.zeros((2, 3, 4, 3), np.uint8), [4, 3, 2], "has 4 axes"),
        (np.zeros((0, 3, 4), np.uint8), [4, 3, 0], "is empty"),
        (np.zeros((2, 3, 4), np.complex64), [4, 3, 2], "expected real numbers"),
        (np.zeros((2, 3, 4), np.uint8), [2, 3, 4], "does not fit its size"),
    ],
)
def test_what_is_no_volume_is_refused(
    engine: Driver, files: Files, array: np.ndarray, size: list[int], told: str
) -> None:
    assert told in engine.refusal(
        "open_volume", **{**files.opening(), "array": array, "size": size}
    )


def test_a_geometry_that_places_no_voxels_is_refused(engine: Driver, files: Files) -> None:
    for change in ({"spacing": [1, 0, 1]}, {"direction": [0] * 9}):
        told = engine.refusal("open_volume", **{**files.opening(), **change})
        assert "place no voxels" in told


def test_a_plain_sam_says_what_it_needs(engine: Driver, files: Files, volume: str) -> None:
    plain = {**files.segmenting(volume), "model": str(files.base)}
    assert "knows no structures: click, draw boxes" in engine.refusal("segment", **plain)


def test_a_model_that_is_deleted_or_changed_is_noticed(
    engine: Driver, files: Files, volume: str
) -> None:
    path = files.folder / "listed.safetensors"
    shutil.copy(files.model, path)
    segmenting = {**files.segmenting(volume, slices=[1]), "model": str(path)}
    engine.result("segment", **segmenting)
    path.unlink()
    assert "was moved or deleted; choose another" in engine.refusal("segment", **segmenting)
    path.write_bytes(b"other")
    assert "is not a checkpoint" in engine.refusal("segment", **segmenting)
    shutil.copy(files.model, path)
    engine.result("segment", **segmenting)


def test_a_closed_volume_is_gone_with_its_file(engine: Driver, files: Files) -> None:
    folder = Path(engine.client.folder)
    before = set(folder.iterdir())
    volume = engine.result("open_volume", **files.opening())["volume"]
    assert len(set(folder.iterdir()) - before) == 1
    engine.result("close_volume", volume=volume)
    assert set(folder.iterdir()) == before
    assert "not open" in engine.refusal("segment", **files.segmenting(volume))


def test_answers_leave_no_files(engine: Driver, files: Files, volume: str) -> None:
    folder = Path(engine.client.folder)
    before = set(folder.iterdir())
    engine.result("segment", **files.segmenting(volume))
    engine.refusal("segment", **files.segmenting(volume, slices=[99]))
    engine.result("click", **files.clicking(volume, points=[[1, 1, 1]]))
    assert set(folder.iterdir()) == before
