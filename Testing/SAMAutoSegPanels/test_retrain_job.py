import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from SAMAutoSegPanels.RetrainJob import (
    JobVolume,
    WatchedJob,
    describeJob,
    makeJobInSteps,
    unfinishedBusiness,
)
from SAMAutoSegPanels.RetrainState import FINISHED, IDLE, RUNNING, STOPPING

from SAMAutoSegLib.engine.jobs import CHECKPOINT, TrainingJob, append_event
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid, Volume

GRID = Grid((6, 5, 8), (1.0, 1.0, 3.0), (1.0, 2.0, 3.0), np.eye(3))


class Job:
    """A training whose events the test tells."""

    def __init__(self) -> None:
        self.state = "running"
        self.told: list[dict[str, Any]] = []
        self.spec: dict[str, Any] = {"model_name": "Liver", "notes": []}
        self.stopped = False
        self.can_resume = False

    def tell(self, event: str, **fields: Any) -> None:
        self.told.append({"event": event, "time": time.time(), **fields})

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        return self.told[since:]

    @property
    def result(self) -> dict[str, Any] | None:
        return self.told[-1] if self.state in ("finished", "stopped", "failed") else None

    def stop(self) -> None:
        self.stopped = True

    def end(self, state: str, **fields: Any) -> None:
        self.tell(state, **fields)
        self.state = state


@pytest.fixture
def job() -> Job:
    return Job()


def test_progress_and_curve_follow_the_events(job: Job) -> None:
    watched = WatchedJob(job)
    job.tell("progress", fraction=0.3, message="", seconds_left=40.0)
    job.tell("loss", step=1, weights_loss=1.0, prompt_loss=9.0)
    job.tell("loss", step=2, weights_loss=0.5)
    job.tell("score", step=2, held_out_dice=0.8)
    assert watched.poll() and not watched.poll()
    assert (watched.fraction, watched.secondsLeft) == (0.3, 40.0)
    assert watched.curve.steps == [1, 2] and watched.curve.losses == [1.0, pytest.approx(0.95)]
    assert watched.curve.scores == [0.8]


def test_the_end_compares_before_and_after(job: Job) -> None:
    watched = WatchedJob(job)
    job.end("finished", model="m", before={"liver": 0.8}, after={"liver": 0.9}, notes=[])
    watched.poll()
    assert watched.state == FINISHED and watched.message.startswith("Better: Dice 0.80")
    assert watched.rows[0].after == 0.9


def test_a_stop_is_asked_for_and_keeps_the_best(job: Job) -> None:
    watched = WatchedJob(job)
    watched.stop()
    assert job.stopped and watched.state == STOPPING
    job.end("stopped", model="m", before=None, after={"liver": 0.7}, notes=[], steps=40)
    watched.poll()
    assert watched.state == FINISHED and "Stopped after 40 steps." in watched.message


def test_a_stop_before_the_first_step_has_nothing_to_keep(job: Job) -> None:
    watched = WatchedJob(job)
    job.end("stopped", model=None, notes=[])
    watched.poll()
    assert watched.state == IDLE and "before anything was learned" in watched.message


def test_a_model_that_nothing_better_was_found_for_is_not_offered_again(job: Job) -> None:
    watched = WatchedJob(job)
    job.end("finished", model=None, unchanged=True, notes=["the source model is kept"])
    watched.poll()
    assert watched.state == IDLE and not watched.failed and watched.rows == []
    assert watched.message == "The model stays as it is. The source model is kept."


def test_a_failure_is_told_in_its_words(job: Job) -> None:
    watched = WatchedJob(job)
    job.end("failed", message="the disk is full", details="")
    watched.poll()
    assert watched.failed and not watched.lost and watched.message == "The disk is full"


def test_a_failure_with_something_learned_can_go_on(job: Job) -> None:
    watched = WatchedJob(job)
    job.can_resume = True
    job.end("failed", message="the disk is full", details="")
    watched.poll()
    assert watched.lost and watched.failed and watched.message == "The disk is full"


def test_a_process_that_vanished_can_go_on(job: Job) -> None:
    watched = WatchedJob(job)
    job.state = "lost"
    watched.poll()
    assert watched.lost and "go on" in watched.message


def test_a_run_that_goes_on_draws_its_curve_anew(job: Job) -> None:
    watched = WatchedJob(job)
    job.tell("loss", step=1, weights_loss=1.0, prompt_loss=9.0)
    job.tell("launched")
    job.tell("loss", step=1, weights_loss=0.4)
    watched.poll()
    assert watched.curve.losses == [0.4] and watched.state == RUNNING


def corrected(name: str = "CT", value: int = 0) -> Any:
    array = np.full(GRID.size[::-1], value, np.int16)
    return SimpleNamespace(
        volume=Volume(array, GRID, name, modality="CT"),
        labels=array.astype(np.uint8),
        structures=(structure_named("liver", 1),),
        plane="axial",
        notes=["a note"],
    )


def made(folder: Path) -> TrainingJob:
    settings = {"backbone": "lite-medsam", "model_name": "Liver", "method": "blo-sam"}
    steps = makeJobInSteps(folder, [lambda: JobVolume(corrected(), [1, 3], [2])], settings)
    return ended(steps)


def ended(steps: Generator[float, None, TrainingJob]) -> TrainingJob:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_a_job_holds_what_its_process_needs(tmp_path: Path) -> None:
    job = TrainingJob.attach(made(tmp_path / "job").folder)
    (volume,) = job.spec["volumes"]
    assert volume["slices"] == [1, 3] and volume["held_out"] == [2]
    assert volume["size"] == [6, 5, 8] and volume["modality"] == "CT"
    assert job.spec["structures"][0]["name"] == "liver" and job.spec["plane"] == "axial"
    assert (tmp_path / "job" / f"{volume['image']}.npy").is_file()
    assert (tmp_path / "job" / f"{volume['labels']}.npy").is_file()


def test_rough_paint_is_named_in_the_job(tmp_path: Path) -> None:
    volume = JobVolume(corrected(), [1, 3, 5], rough=[1, 3])
    for step in makeJobInSteps(tmp_path / "job", [lambda: volume], {}):
        assert 0 <= step <= 1
    (volume,) = TrainingJob.attach(tmp_path / "job").spec["volumes"]
    assert volume["slices"] == [1, 3, 5] and volume["rough"] == [1, 3]


def test_a_job_of_several_volumes_has_the_arrays_and_notes_of_each(tmp_path: Path) -> None:
    volumes = [
        lambda: JobVolume(corrected("CT", 7), [1, 3], [2]),
        lambda: JobVolume(corrected("CT 2", 9), [5]),
    ]
    job = ended(makeJobInSteps(tmp_path / "job", volumes, {}))
    first, second = TrainingJob.attach(job.folder).spec["volumes"]
    assert [(one["name"], one["slices"], one["held_out"]) for one in (first, second)] == [
        ("CT", [1, 3], [2]),
        ("CT 2", [5], []),
    ]
    arrays = [np.load(job.folder / f"{one['image']}.npy") for one in (first, second)]
    assert [array.flat[0] for array in arrays] == [7, 9]
    assert len({one[part] for one in (first, second) for part in ("image", "labels")}) == 4
    assert job.spec["notes"] == ["CT: a note", "CT 2: a note"]


def test_a_job_given_up_half_way_leaves_no_array(tmp_path: Path) -> None:
    steps = makeJobInSteps(tmp_path / "job", [lambda: JobVolume(corrected(), [1])], {})
    next(steps)  # reads the volume
    next(steps)
    steps.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_trainings_that_somebody_has_to_decide_about_are_found(tmp_path: Path) -> None:
    done, failed, kept = (made(tmp_path / name) for name in ("done", "failed", "kept"))
    for job in (done, failed, kept):
        append_event(job.folder, "launched")
    append_event(done.folder, "finished", model="m", notes=[])
    for job in (failed, kept):
        append_event(job.folder, "failed", message="no", details="")
    (kept.folder / CHECKPOINT).touch()
    found = unfinishedBusiness(tmp_path)
    assert {job.folder.name: job.can_resume for job in found} == {"done": False, "kept": True}
    assert "failed" in describeJob(kept) and not failed.folder.exists()
    assert "liver" in describeJob(done) and "has finished" in describeJob(done)
