"""Training jobs with their real process on a tiny model."""

import errno
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from SAMAutoSegLib.adapt import adapted_file
from SAMAutoSegLib.engine import job_process, jobs, machine
from SAMAutoSegLib.engine.jobs import (
    CHECKPOINT,
    EVENTS,
    LOCK,
    SPEC,
    TrainingJob,
    append_event,
    list_jobs,
    remove_abandoned,
)
from SAMAutoSegLib.engine.lock import FileLock
from SAMAutoSegLib.engine.transport import engine_environment
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.structure import Structure, standard_structures
from SAMAutoSegLib.images.write import write_segmentation
from SAMAutoSegLib.sam.architecture import ViTShape

from .conftest import Files, tiny_command

PROCESS = tiny_command("SAMAutoSegLib.engine.job_process")

# Long enough to be interrupted in, short enough to wait for.
SETTINGS = {"steps": 12, "batch": 2, "warmup": 1, "views": 1, "patience": 0}


@pytest.fixture
def spec(files: Files) -> dict[str, Any]:
    opening = files.opening()
    del opening["array"]
    volume = {**opening, "image": "image0", "labels": "labels0"}
    return {
        "volumes": [{**volume, "slices": [1, 3, 6, 8], "held_out": [10, 11]}],
        "structures": [s.to_json() for s in standard_structures(["liver", "spleen"])],
        "backbone": str(files.base),
        "plane": "axial",
        "intensity": "0,255",
        "settings": SETTINGS,
        "device": "cpu",
    }


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Discs and bars, and an image that shows them."""
    labels = np.zeros((12, 30, 40), np.uint8)
    labels[:, 4:16, 4:16] = 1
    labels[:, 20:26, 5:35] = 2
    image = np.random.default_rng(0).normal(110, 8, labels.shape) - 80.0 * (labels == 1)
    return {"image0": (image + 80 * (labels == 2)).astype(np.int16), "labels0": labels}


def until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(job: TrainingJob) -> dict[str, Any]:
    until(lambda: job.state not in ("waiting", "running"))
    assert job.state == "finished", (job.result, (job.folder / "log.txt").read_text())
    assert job.result is not None
    return job.result


def kill_in_the_middle(job: TrainingJob) -> None:
    job.start(PROCESS)
    until(lambda: len(named(job, "loss")) >= 5)
    # On Windows every signal ends a process at once.
    os.kill(named(job, "started")[0]["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))
    until(lambda: job.state == "lost")


def named(job: TrainingJob, *names: str) -> list[dict[str, Any]]:
    return [event for event in job.events() if event["event"] in names]


def structures_of(spec: dict[str, Any]) -> list[Structure]:
    return [Structure.from_json(values) for values in spec["structures"]]


def weights(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """The weights of a job that nobody interrupted, once there is one."""
    return {}


def test_a_job_tells_its_course_and_leaves_a_model(
    tmp_path: Path,
    spec: dict[str, Any],
    arrays: dict[str, np.ndarray],
    undisturbed: dict[str, Any],
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    assert job.state == "waiting" and job.events() == []
    job.start(PROCESS)
    assert job.state in ("waiting", "running")
    result = finished(job)
    assert [event["step"] for event in named(job, "loss")] == list(range(1, 13))
    assert all(any("loss" in name for name in event) for event in named(job, "loss"))
    (score,) = named(job, "score")
    assert score["step"] == 12 and 0 <= score["held_out_dice"] <= 1
    told = named(job, "progress")
    assert told[0]["message"] == "loading the model" and told[-1]["fraction"] == 1
    assert result["model"] == str(job.model_path) and job.model_path.exists()
    assert result["before"] is None and set(result["after"]) == {"liver", "spleen"}
    assert result["steps"] == 12 and result["notes"] == [] and result["seconds"] > 0
    assert not (job.folder / CHECKPOINT).exists()
    count = len(job.events())
    assert job.events(count - 1) == [result] and job.events(count) == []
    undisturbed.update(weights(job.model_path))


def test_a_killed_job_is_lost_and_goes_on_to_the_same_result(
    tmp_path: Path,
    spec: dict[str, Any],
    arrays: dict[str, np.ndarray],
    undisturbed: dict[str, Any],
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    kill_in_the_middle(job)
    again = TrainingJob.attach(job.folder)
    assert again.state == "lost" and (job.folder / CHECKPOINT).exists()
    again.start(PROCESS)
    finished(again)
    assert named(again, "started")[-1]["resumed"]
    assert [event["step"] for event in named(again, "loss")][-1] == 12
    assert same(weights(again.model_path), undisturbed)


def test_a_stopped_job_keeps_the_best_and_can_go_on(
    tmp_path: Path,
    spec: dict[str, Any],
    arrays: dict[str, np.ndarray],
    undisturbed: dict[str, Any],
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    job.start(PROCESS)
    until(lambda: len(named(job, "loss")) >= 3)
    job.stop()
    until(lambda: job.state == "stopped")
    assert job.result is not None and 3 <= job.result["steps"] < 12
    assert job.model_path.exists() and set(job.result["after"]) == {"liver", "spleen"}
    job.start(PROCESS)
    assert job.state in ("waiting", "running") and job.result is None
    finished(job)
    assert same(weights(job.model_path), undisturbed)


def test_a_job_that_is_stopped_before_its_first_step_has_no_model(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    job.start(PROCESS)
    job.stop()
    until(lambda: job.state == "stopped")
    assert job.result is not None and job.result["model"] is None
    assert "nothing was learned yet" in job.result["notes"][0] and not job.model_path.exists()


def test_a_resumed_job_that_is_stopped_at_once_keeps_what_was_learned_before(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    kill_in_the_middle(job)
    (job.folder / ".partial-0-checkpoint.pt").touch()  # what a process leaves that is killed then
    job = TrainingJob.attach(job.folder)
    job.start(PROCESS)
    job.stop()
    until(lambda: job.state == "stopped")
    assert job.result is not None and job.result["steps"] >= 4
    assert job.model_path.exists() and not list(job.folder.glob(".partial-*"))


@pytest.fixture
def in_this_process(tiny_vit_b: ViTShape, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job works in the process of the tests, and leaves its threads and priority alone."""
    monkeypatch.setattr(job_process, "_lower_priority", lambda: None)
    monkeypatch.setattr(machine, "leave_a_core", lambda: None)


@pytest.mark.usefixtures("in_this_process")
def test_a_job_whose_model_could_not_be_saved_goes_on_to_it(
    tmp_path: Path,
    spec: dict[str, Any],
    arrays: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise SAMAutoSegError("the disk is full")

    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    append_event(job.folder, "launched")
    with monkeypatch.context() as patch:
        patch.setattr(adapted_file, "save_adapted", full)
        assert job_process.main([str(job.folder)]) == 1
    assert job.state == "failed" and job.can_resume
    steps = len(named(job, "loss"))
    assert steps == spec["settings"]["steps"]
    job.start(PROCESS)
    assert Path(finished(job)["model"]).exists() and not job.can_resume
    assert len(named(job, "loss")) == steps  # none was made again


def test_the_time_left_of_a_resumed_training_is_that_of_its_own_steps(tmp_path: Path) -> None:
    now = 0.0
    progress = job_process._Progress(tmp_path, True, lambda: now)
    progress(0.0, "loading the model")
    for step in range(240, 260):
        now += 0.5
        progress.on_step({"step": float(step), "loss": 1.0})
        progress(step / 300, "training")
    lines = (tmp_path / EVENTS).read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines if '"progress"' in line]
    assert told[-1]["seconds_left"] == pytest.approx(20.5, abs=0.1)


def test_a_refined_model_is_scored_before_and_after(
    tmp_path: Path, files: Files, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    reversed_order = list(reversed(spec["structures"]))
    still = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "average": 0.0, "views": 1}
    changes = {"base_model": str(files.model), "structures": reversed_order, "settings": still}
    job = TrainingJob.create(tmp_path / "job", {**spec, **changes}, arrays)
    job.start(PROCESS)
    result = finished(job)
    assert result["before"] == pytest.approx(result["after"], abs=1e-3)
    former, new = weights(files.model), weights(job.model_path)
    assert all(np.allclose(new[name], former[name], atol=1e-6) for name in former)


def test_a_job_of_several_volumes_learns_from_all_and_scores_all(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    (first,) = spec["volumes"]
    second = {**first, "name": "CT 2", "image": "image1", "labels": "labels1"}
    volumes = [{**first, "slices": [1, 8], "held_out": [10]}, {**second, "held_out": [4]}]
    more = {"image1": arrays["image0"][::-1], "labels1": arrays["labels0"][::-1]}
    settings = {**SETTINGS, "steps": 2, "spare_every": 4}
    job = TrainingJob.create(
        tmp_path / "job", {**spec, "volumes": volumes, "settings": settings}, {**arrays, **more}
    )
    job.start(PROCESS)
    result = finished(job)
    assert result["after"]["liver"] is not None
    images, held_out = (card_of(job.model_path)["provenance"][p] for p in ("images", "held_out"))
    assert [(image["name"], image["slices"]) for image in images] == [
        ("scan", [1, 8]),
        ("CT 2", [1, 3, 6, 8]),
    ]
    assert [image["slices"] for image in held_out] == [[10], [4]]
    # Neither labeled, held out nor spared.
    assert [image["unlabeled"] for image in images] == [
        [0, 3, 4, 5, 7, 9, 11],
        [0, 5, 7, 9, 11],
    ]


def test_a_model_that_knows_no_other_slices_is_not_gone_on_from_with_several_volumes(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    (first,) = spec["volumes"]
    second = {**first, "name": "CT 2", "image": "image1", "labels": "labels1", "held_out": []}
    more = {"image1": arrays["image0"][::-1], "labels1": arrays["labels0"][::-1]}
    settings = {**SETTINGS, "steps": 1, "pixel_steps": 0}

    def source(name: str, *volumes: dict[str, Any], **changes: Any) -> Any:
        whole = {**spec, "settings": settings, "volumes": list(volumes), **changes}
        job = TrainingJob.create(tmp_path / name, whole, {**arrays, **more})
        job.start(PROCESS)
        finished(job)
        card = card_of(job.model_path)
        assert card["intensity"]["kind"] == "window"
        return card["provenance"]["source"]

    source("former", first)
    former = {"base_model": str(tmp_path / "former" / "model.safetensors"), "intensity": None}
    assert source("onward", first, **former)
    assert source("fewer", {**first, "slices": [1, 3]}, second, **former)
    assert source("anew", first, second, **former) is None


def card_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["card"])


def test_a_refined_model_learns_a_new_structure_beside_the_known_and_says_so(
    tmp_path: Path, files: Files, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    structures = [s.to_json() for s in standard_structures(["aorta", "spleen"])]
    volumes = [{**spec["volumes"][0], "held_out": [10]}]
    changes = {"base_model": str(files.model), "structures": structures, "volumes": volumes}
    job = TrainingJob.create(
        tmp_path / "job", {**spec, **changes, "settings": {"steps": 1}}, arrays
    )
    job.start(PROCESS)
    result = finished(job)
    assert result["before"]["aorta"] is None and result["before"]["spleen"] is not None
    notes = " ".join(result["notes"])
    assert "for spleen, and began anew for aorta" in notes
    assert "one slice gives a score: too few" in notes


def test_a_model_adapts_to_images_without_labels(
    tmp_path: Path, files: Files, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    weak = tmp_path / "weak.nii.gz"
    write_segmentation(weak, arrays["labels0"], files.volume.grid, structures_of(spec))
    volumes = [{**spec["volumes"][0], "weak": [str(weak)]}]
    changes: dict[str, Any] = {"method": "we-sam", "base_model": str(files.model)}
    changes |= {"settings": {"steps": 2, "views": 1, "encoder_blocks": 0}, "volumes": volumes}
    job = TrainingJob.create(tmp_path / "job", {**spec, **changes}, arrays)
    job.start(PROCESS)
    result = finished(job)
    assert result["model"] and set(result["before"]) == set(result["after"])
    painted = [{**spec["volumes"][0], "rough": spec["volumes"][0]["slices"]}]
    rough = TrainingJob.create(tmp_path / "rough", {**spec, **changes, "volumes": painted}, arrays)
    rough.start(PROCESS)
    # The same paint, out of the label array instead of a file.
    assert finished(rough)["after"] == result["after"]
    losses = [[event["self_training_loss"] for event in named(j, "loss")] for j in (job, rough)]
    assert losses[0] and losses[0] == losses[1]
    still = {**changes, "settings": {**changes["settings"], "learning_rate": 1e-9}}
    same = TrainingJob.create(tmp_path / "same", {**spec, **still, "volumes": painted}, arrays)
    same.start(PROCESS)
    result = finished(same)
    assert result["unchanged"] and result["model"] is None and not same.model_path.exists()
    assert any("the source model is kept" in note for note in result["notes"])
    without = TrainingJob.create(tmp_path / "other", {**spec, "method": "we-sam"}, arrays)
    without.start(PROCESS)
    until(lambda: without.state == "failed")
    assert without.result is not None and "choose such a model" in without.result["message"]


def test_a_job_that_cannot_work_says_why(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    job = TrainingJob.create(tmp_path / "job", {**spec, "method": "magic"}, arrays)
    job.start(PROCESS)
    until(lambda: job.state == "failed")
    assert job.result is not None and job.result["message"].startswith("method 'magic'")
    assert "Traceback" in job.result["details"]


def test_a_second_process_leaves_a_job_alone(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, arrays)
    lock = FileLock(job.folder / LOCK)
    assert lock.acquire()
    ran = subprocess.run(
        [*PROCESS, str(job.folder)],
        capture_output=True,
        text=True,
        env={**os.environ, **engine_environment()},
    )
    assert ran.returncode == 3 and "another process works on" in ran.stderr
    assert job.state == "running" and job.events() == []
    job.start(["/no/such/program"])  # does nothing
    with pytest.raises(SAMAutoSegError, match="is running: stop it first"):
        job.remove()
    lock.release()
    job.remove()
    assert not job.folder.exists()


def test_a_process_that_dies_at_once_is_not_waited_for(
    tmp_path: Path, spec: dict[str, Any]
) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, {})
    with pytest.raises(SAMAutoSegError, match="cannot start /no/such/program"):
        job.start(["/no/such/program"])
    other = TrainingJob.create(tmp_path / "other", spec, {})
    other.start(PROCESS[:1] + ["-c", "raise SystemExit(1)"])
    until(lambda: other.state == "lost")
    assert TrainingJob.attach(other.folder).state == "waiting"  # who cannot know waits a while


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path, spec: dict[str, Any]) -> None:
    job = TrainingJob.create(tmp_path / "job", spec, {})
    append_event(job.folder, "launched")
    append_event(job.folder, "started", pid=1)
    with (job.folder / EVENTS).open("ab") as stream:
        stream.write(b'{"event": "loss", "ti')
    assert [event["event"] for event in job.events()] == ["launched", "started"]
    append_event(job.folder, "progress", fraction=0.5)
    assert [event["event"] for event in job.events()] == ["launched", "started", "progress"]
    assert job.state == "lost"


def test_jobs_are_found_newest_first(tmp_path: Path, spec: dict[str, Any]) -> None:
    for age, name in enumerate(("new", "old")):
        job = TrainingJob.create(tmp_path / name, spec, {})
        os.utime(job.folder / SPEC, (1e9 - age, 1e9 - age))
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / SPEC).write_text("{")
    assert [job.folder.name for job in list_jobs(tmp_path)] == ["new", "old"]
    assert list_jobs(tmp_path / "nowhere") == []


def test_a_folder_holds_one_job(tmp_path: Path, spec: dict[str, Any]) -> None:
    TrainingJob.create(tmp_path, spec, {})
    with pytest.raises(SAMAutoSegError, match="holds a training job already"):
        TrainingJob.create(tmp_path, spec, {})
    with pytest.raises(SAMAutoSegError, match="holds no training job"):
        TrainingJob.attach(tmp_path / "nowhere")
    (tmp_path / SPEC).write_text(json.dumps({**spec, "version": 99}))
    with pytest.raises(SAMAutoSegError, match="another version"):
        TrainingJob.attach(tmp_path)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_job_that_is_given_up_while_it_is_written_leaves_no_image(
    tmp_path: Path, spec: dict[str, Any], steps: int
) -> None:
    images = {"image": np.zeros((3, 4, 5), np.int16), "labels": np.zeros((3, 4, 5), np.uint8)}
    writing = TrainingJob.create_in_steps(tmp_path / "job", spec, images)
    for _ in range(steps):
        next(writing, None)
    writing.close()
    assert (tmp_path / "job").exists() == (steps > 2)


def test_a_full_disk_leaves_no_image_and_takes_no_file_of_others(
    tmp_path: Path, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.txt").write_text("kept")
    images = {"image": np.zeros((3, 4, 5)), "labels": np.zeros((3, 4, 5))}
    write, written = jobs.write_in_steps, []

    def full(stream: Any, array: np.ndarray) -> Iterator[float]:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(array)
        yield from write(stream, array)

    monkeypatch.setattr(jobs, "write_in_steps", full)
    with pytest.raises(SAMAutoSegError, match="No space left"):
        TrainingJob.create(tmp_path, spec, images)
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_what_a_crash_left_of_a_job_is_removed_once_nobody_can_be_writing_it(
    tmp_path: Path, spec: dict[str, Any]
) -> None:
    for name in ("job", "abandoned", "written now"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.npy").write_bytes(b"patient")
    TrainingJob.create(tmp_path / "job", spec, {})
    for name in ("job", "abandoned"):
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / "removed").mkdir()
    (tmp_path / "removed" / "log.txt").touch()  # Windows kept it while the process was ending
    (tmp_path / "just made").mkdir()
    remove_abandoned(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["job", "just made", "written now"]
    remove_abandoned(tmp_path / "nowhere")


@pytest.mark.skipif(os.name == "nt", reason="other permissions there")
def test_a_job_is_for_its_user_only(tmp_path: Path, spec: dict[str, Any]) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    for name in ("new", "there"):
        folder = TrainingJob.create(tmp_path / name, spec, {}).folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_arrays_are_numpy_files_written_in_steps(
    tmp_path: Path, spec: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    turned = {**arrays, "image0": arrays["image0"].transpose(2, 0, 1)[::-1]}
    steps = list(TrainingJob.create_in_steps(tmp_path, spec, turned))
    assert steps == sorted(steps) and steps[-1] == 1
    for name, array in turned.items():
        written = np.load(tmp_path / f"{name}.npy", allow_pickle=False)
        assert written.dtype == array.dtype and np.array_equal(written, array)
