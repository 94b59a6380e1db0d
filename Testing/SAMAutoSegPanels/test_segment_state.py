from dataclasses import replace
from types import SimpleNamespace

import pytest
from SAMAutoSegPanels.SegmentState import (
    CANCELLING,
    PREPARING,
    RUNNING,
    SegmentFacts,
    doneMessage,
    segmentView,
)

MODEL = SimpleNamespace(title="Organs", structures=("liver",), problem="", backbone="LiteMedSAM")
FINE = SegmentFacts(ready=True, hasVolume=True, model=MODEL)


def test_with_all_chosen_the_button_segments() -> None:
    view = segmentView(FINE)
    assert (view.button, view.enabled, view.percent) == ("Segment", True, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ready": False}, "set-up"),
        ({"hasVolume": False}, "Select a volume"),
        ({"volumeProblem": "'CT' has 3 values per voxel"}, "3 values per voxel"),
        ({"model": None}, "Select a model"),
        ({"model": None, "modelProblem": "Organs was deleted"}, "Organs was deleted"),
        ({"model": SimpleNamespace(title="X", structures=(), problem="X is damaged")}, "damaged"),
        ({"model": SimpleNamespace(title="SAM", structures=(), problem="")}, "clicks"),
        ({"backboneProblem": "Organs needs LiteMedSAM"}, "Organs needs LiteMedSAM"),
        ({"optionsProblem": "slice 99 is out of range"}, "slice 99"),
    ],
)
def test_what_is_missing_is_said_and_the_button_waits(change: dict, words: str) -> None:
    view = segmentView(replace(FINE, **change))
    assert not view.enabled and words in view.toolTip


def test_what_is_wrong_with_the_choice_stands_below_the_button_but_not_what_is_yet_to_do() -> None:
    assert "3 values" in segmentView(replace(FINE, volumeProblem="it has 3 values")).status
    assert segmentView(replace(FINE, hasVolume=False)).status == ""
    assert segmentView(replace(FINE, model=None)).status == ""


def test_why_the_model_that_is_chosen_cannot_segment_stands_below_the_button() -> None:
    assert segmentView(replace(FINE, backboneProblem="it needs a SAM")).status == "it needs a SAM"
    plain = SimpleNamespace(title="SAM", structures=(), problem="")
    assert "knows no structures" in segmentView(replace(FINE, model=plain)).status
    # The line on top says what is left of the set-up.
    assert segmentView(replace(FINE, model=plain, ready=False)).status == ""


def test_while_it_runs_the_button_cancels_and_the_time_left_is_told() -> None:
    view = segmentView(replace(FINE, run=RUNNING, fraction=0.42, secondsLeft=31))
    assert (view.button, view.enabled, view.percent) == ("Cancel", True, 42)
    assert view.status == "Time left: about 30 s"
    assert segmentView(replace(FINE, run=PREPARING)).percent == -1


def test_a_cancel_can_be_pressed_once() -> None:
    view = segmentView(replace(FINE, run=CANCELLING))
    assert (view.button, view.enabled) == ("Cancel", False)


def test_the_end_says_what_was_done_and_what_to_know() -> None:
    assert doneMessage(30, 30, False, []) == "Done: 30 slices."
    assert doneMessage(4, 30, True, []) == "Stopped: 4 of 30 slices are done and kept."
    assert doneMessage(0, 30, True, []) == "Stopped before a slice was done."
    assert doneMessage(2, 2, False, ["cuda ran out of memory."]).endswith("Cuda ran out of memory.")
