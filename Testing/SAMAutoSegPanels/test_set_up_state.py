from dataclasses import replace

import pytest
from SAMAutoSegPanels.SetUpState import (
    EXTENSION,
    PACKAGES,
    RESTART,
    TORCH,
    WEIGHTS,
    SetUpFacts,
    isReady,
    question,
    setUpView,
    stepsLeft,
)

CPU = {"name": "cpu", "words": "CPU, 8 cores", "free_bytes": 9_000_000_000}
GPU = {"name": "cuda:0", "words": "NVIDIA RTX A4000", "free_bytes": 11_200_000_000}

DONE = SetUpFacts(
    hasExtension=True,
    hasTorch=True,
    hasWeights=True,
    weightsBytes=39_370_479,
    engineState="ready",
    devices=(CPU,),
    chosenDevice="cpu",
)
FRESH = SetUpFacts(missingPackages=("safetensors>=0.4.3",), weightsBytes=39_370_479)


def test_a_fresh_slicer_needs_the_extension_and_a_restart_first() -> None:
    assert stepsLeft(FRESH) == [EXTENSION, RESTART]
    view = setUpView(FRESH)
    assert view.level == "missing" and view.button == "Set up..."
    assert "PyTorch extension" in view.text


def test_after_the_extension_only_a_restart_is_asked_for() -> None:
    view = setUpView(replace(FRESH, restartPending=True))
    assert view.button == "Restart" and "Restart Slicer" in view.text


def test_after_the_restart_the_rest_comes_in_order() -> None:
    assert stepsLeft(replace(FRESH, hasExtension=True)) == [TORCH, PACKAGES, WEIGHTS]


def test_torch_that_came_another_way_needs_no_extension() -> None:
    assert EXTENSION not in stepsLeft(replace(FRESH, hasTorch=True))


def test_the_question_names_all_that_is_installed_with_size_and_license() -> None:
    asked = question(replace(FRESH, hasExtension=True))
    assert "PyTorch" in asked and "safetensors>=0.4.3" in asked
    assert "39 MB" in asked and "Apache-2.0" in asked


def test_ready_means_that_models_can_run_even_without_the_default_one() -> None:
    assert isReady(DONE) and isReady(replace(DONE, hasWeights=False))
    assert not isReady(replace(DONE, missingPackages=("tqdm>=4.66",)))
    assert not isReady(replace(DONE, restartPending=True))


def test_ready_names_the_device_with_free_memory_and_the_time_for_the_volume() -> None:
    assert setUpView(DONE).text == "CPU, 8 cores"
    timed = replace(DONE, secondsForVolume=130.0)
    assert setUpView(timed).text == "CPU, 8 cores: about 2 min to segment"
    on_gpu = replace(timed, devices=(CPU, GPU), chosenDevice="cuda:0")
    assert setUpView(on_gpu).text.startswith("NVIDIA RTX A4000, 11.2 GB free: ")


def test_a_missing_default_model_is_told_without_hiding_that_the_rest_is_ready() -> None:
    view = setUpView(replace(DONE, hasWeights=False))
    assert "Ready" in view.text and view.button == "Download"


@pytest.mark.parametrize("step", [EXTENSION, TORCH, PACKAGES, WEIGHTS])
def test_while_installing_there_is_no_button(step: str) -> None:
    view = setUpView(replace(FRESH, busyWith=step))
    assert view.level == "waiting" and view.button == ""


def test_a_failure_is_told_and_can_be_tried_again() -> None:
    view = setUpView(replace(FRESH, failure="No internet."))
    assert (view.level, view.text, view.button) == ("failed", "No internet.", "Try again")


def test_an_engine_that_ended_says_why_and_can_be_started_again() -> None:
    view = setUpView(replace(DONE, engineState="failed", engineMessage="memory ran out"))
    assert (view.level, view.text, view.button) == ("failed", "memory ran out", "Start again")


def test_where_no_pytorch_can_be_nothing_is_offered() -> None:
    view = setUpView(replace(FRESH, torchCannotBe=True))
    assert (view.level, view.button) == ("failed", "") and "Intel Macs" in view.text
    assert setUpView(replace(DONE, torchCannotBe=True)) == setUpView(DONE)
