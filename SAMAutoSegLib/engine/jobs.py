"""Training jobs: a folder each, worked on by a process that outlives the program that started it.

The folder holds `job.json` (what is to be learned, see `TrainingJob.create`), the arrays it names
as `.npy` files, `events.jsonl` (what has happened, one JSON object a line), `checkpoint.pt` while
the training can be resumed, `model.safetensors` once there is one, and `log.txt`.

Every event has `event` and `time` (seconds since 1970):

- launched: its process was started; what comes before belongs to an earlier run
- started: `pid`, `host`, `resumed`
- progress: `fraction`, `message`, `seconds_left` (or None)
- loss: `step` and what the method tells of it: its losses, with "loss" in their names, the watched
  one first; after a resumption some steps come again, the later ones hold
- score: `step`, `held_out_dice` (mean over the structures), `held_out_dice/liver` and so on
- finished, stopped: `model` (path, None where nothing was learned yet), `before` and `after` (Dice
  of every structure over the held-out slices, None where neither labels nor prediction hold it or
  the former model does not know it; all of it None where no slice was held out or, for `before`,
  no model was refined), `notes`, `steps`, `best_step`, `seconds`, and `unchanged` (True) where
  nothing speaks for what was learned, so that there is no new model
- failed: `message`, `details`
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from SAMAutoSegLib.engine.arrays import result_of, write_in_steps
from SAMAutoSegLib.engine.lock import is_locked
from SAMAutoSegLib.engine.transport import engine_environment
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, write_errors_named

State = Literal["waiting", "running", "finished", "stopped", "failed", "lost"]

SPEC = "job.json"
EVENTS = "events.jsonl"
CHECKPOINT = "checkpoint.pt"
MODEL = "model.safetensors"
LOG = "log.txt"
LOCK = "lock"
STOP = "stop"

_ENDS = ("finished", "stopped", "failed")

SPEC_VERSION = 1

# From the start of the process to its lock; importing Python from a cold disk takes a while.
_SECONDS_TO_LOCK = 30.0


# From the making of a folder to its job, or longer; another program may be at it.
_SECONDS_TO_WRITE = 24 * 3600.0


class TrainingJob:
    """One job, seen from the program that watches it; made by `create` or `attach`.

    Attributes:
        folder: the job's.
        spec: see `create`.
    """

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder = folder
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._events: list[dict[str, Any]] = []
        self._read = 0

    @classmethod
    def create(
        cls, folder: Path, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> TrainingJob:
        """Write a new job; `start` starts it.

        Args:
            folder: is made, for this user only; must not hold a job already.
            spec: `volumes`, a list; each has `name`, `size`, `spacing`, `origin`, `direction`
                (nine numbers) as in the request `open_volume`, `modality` (or None), `image` and
                `labels` (names in `arrays`), `slices` to learn from and `held_out` ones, and
                for the method 'we-sam', which learns without contours, files of `weak` labels
                and numbers of the slices whose labels are `rough` paint.
                `structures` (as `Structure.to_json`, `label` is the value in the label arrays).
                `backbone` (file or catalogue name).
                Optional: `base_model` (file of the adapted model that is refined), `plane`
                (default: that of this model, else 'auto'), `intensity` (as text; default: that of
                this model, else by modality), `method` ('blo-sam'), `budget` ('standard';
                'we-sam' has none), `settings` of the method, `adaptation` (`lora_rank`,
                `encoder_blocks`), `side` (of the backbone's input), `device` ('auto').
            arrays: [K, J, I] by name.

        Raises:
            SAMAutoSegError: the folder holds a job, or cannot be written.
        """
        return result_of(cls.create_in_steps(folder, spec, arrays))

    @classmethod
    def create_in_steps(
        cls, folder: Path, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Generator[float, None, TrainingJob]:
        """As `create`, yielding the fraction done now and then, see `share_in_steps`.

        Where it fails or is closed half way, nothing of the images stays.
        """
        if (folder / SPEC).exists():
            raise SAMAutoSegError(f"{folder} holds a training job already: choose another folder")
        with write_errors_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # it holds a patient's images
        files = [folder / f"{name}.npy" for name in arrays]
        content = {"version": SPEC_VERSION, **spec}
        try:
            for number, (path, array) in enumerate(zip(files, arrays.values(), strict=True)):
                for fraction in _save_in_steps(path, array):
                    yield (number + fraction) / len(arrays)
            with replace_when_complete(folder / SPEC) as temporary:
                temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        except BaseException:
            with suppress(OSError):  # the folder may hold more than this job
                for path in files:
                    path.unlink(missing_ok=True)
                folder.rmdir()
            raise
        return cls(folder, content)

    @classmethod
    def attach(cls, folder: Path) -> TrainingJob:
        """A job that was created before, by this program or an earlier run of it.

        Raises:
            SAMAutoSegError: the folder holds no job, or one of a newer version.
        """
        return cls(folder, read_spec(folder))

    def start(self, command: Sequence[str] | None = None) -> None:
        """Start the process, or start it again where it stopped, failed or was lost.

        It is detached: it goes on when this program ends. Does nothing while one is at work.

        Args:
            command: to which the folder is added; by default this interpreter with `job_process`.

        Raises:
            SAMAutoSegError: it cannot be started.
        """
        if is_locked(self.folder / LOCK) or (self._launches() and self.state == "waiting"):
            return
        (self.folder / STOP).unlink(missing_ok=True)
        given = list(command or job_command())
        detached: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
            detached = {"creationflags": flags}
        append_event(self.folder, "launched")
        log = self.folder / LOG
        with write_errors_named(log), log.open("ab") as stream:
            try:
                self._process = subprocess.Popen(
                    [*given, str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env={**os.environ, **engine_environment()},
                    **detached,
                )
            except OSError as error:
                raise SAMAutoSegError(
                    f"cannot start {given[0]}: {error.strerror}; repair the installation"
                ) from error

    @property
    def state(self) -> State:
        """How it stands.

        "waiting" for its process to begin, "running", "finished", "stopped" on request, "failed",
        or "lost": its process is gone without a word; `start` resumes it.
        """
        # In this order: who has freed the lock has written all events before.
        if is_locked(self.folder / LOCK):
            return "running"
        own = None if self._process is None else self._process.poll()
        launches = self._launches()
        if not launches:
            return "waiting"
        ended = self.result
        if ended is not None:
            return ended["event"]
        latest = self.events(launches[-1])
        begun = any(event["event"] == "started" for event in latest)
        alive = time.time() - latest[0]["time"] < _SECONDS_TO_LOCK
        if self._process is not None:
            alive = own is None
        return "waiting" if alive and not begun else "lost"

    @property
    def can_resume(self) -> bool:
        """Whether `start` goes on where it broke off, or failed with something learned."""
        state = self.state
        return state == "lost" or state == "failed" and (self.folder / CHECKPOINT).exists()

    @property
    def result(self) -> dict[str, Any] | None:
        """The event that ended the latest run, None where none did."""
        launches = self._launches()
        latest = self.events(launches[-1]) if launches else []
        ended = [event for event in latest if event["event"] in _ENDS]
        return ended[-1] if ended else None

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """The events from number `since` on; ask next time from the number you have."""
        self._read_on()
        return self._events[since:]

    def stop(self) -> None:
        """Ask the process to stop and keep the best so far; `state` tells when it has."""
        with write_errors_named(self.folder / STOP):
            (self.folder / STOP).touch()

    def remove(self) -> None:
        """Remove the folder with all that is in it, the model too.

        Raises:
            SAMAutoSegError: the job is running.
        """
        if is_locked(self.folder / LOCK):
            raise SAMAutoSegError(f"the training in {self.folder} is running: stop it first")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def model_path(self) -> Path:
        """Where the model is once the job has finished, or was stopped after its first steps."""
        return self.folder / MODEL

    def _launches(self) -> list[int]:
        """Numbers of the events that runs began with."""
        return [n for n, event in enumerate(self.events()) if event["event"] == "launched"]

    def _read_on(self) -> None:
        try:
            with (self.folder / EVENTS).open("rb") as stream:
                stream.seek(self._read)
                new = stream.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # cut short when its process was killed
            if isinstance(event, dict) and {"event", "time"} <= event.keys():
                self._events.append(event)


def job_command(python: str | None = None) -> list[str]:
    """The command of a job's process, for this interpreter or another one; the folder follows."""
    return [python or sys.executable, "-m", "SAMAutoSegLib.engine.job_process"]


def list_jobs(root: Path) -> list[TrainingJob]:
    """The jobs in the folders of `root`, the newest first; folders that hold none are left out."""
    found = []
    for path in root.glob(f"*/{SPEC}"):
        try:
            found.append((path.stat().st_mtime_ns, TrainingJob.attach(path.parent)))
        except (OSError, SAMAutoSegError):
            continue
    return [job for _, job in sorted(found, key=lambda pair: pair[0], reverse=True)]


def remove_abandoned(root: Path) -> None:
    """Remove the folders of `root` that hold no job: of programs that died while they wrote one.

    And those of which only the log is left, which Windows kept while its process was ending.
    """
    long_ago = time.time() - _SECONDS_TO_WRITE
    for folder in root.glob("*/"):
        with suppress(OSError):
            names = {path.name for path in folder.iterdir()}
            left_over = bool(names) and names <= {LOG, LOCK}
            if SPEC not in names and (left_over or folder.stat().st_mtime < long_ago):
                shutil.rmtree(folder)


def read_spec(folder: Path) -> dict[str, Any]:
    """The content of a job's `job.json`.

    Raises:
        SAMAutoSegError: there is none, it is damaged, or of another version.
    """
    path = folder / SPEC
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SAMAutoSegError(f"{folder} holds no training job ({error.strerror})") from error
    except ValueError as error:
        raise SAMAutoSegError(f"{path} is damaged: remove the folder and train anew") from error
    if not isinstance(spec, dict) or spec.get("version") != SPEC_VERSION:
        raise SAMAutoSegError(f"{path} was written by another version: train anew")
    return spec


def append_event(folder: Path, event: str, **fields: Any) -> None:
    """Add a line to a job's events and hand it to the system at once.

    Raises:
        SAMAutoSegError: the disk is full.
    """
    line = json.dumps({"event": event, "time": round(time.time(), 3), **fields})
    path = folder / EVENTS
    with write_errors_named(path), path.open("ab") as stream:
        # After a line that was cut short when its process was killed.
        begins = b"" if _ends_whole(path) else b"\n"
        stream.write(begins + line.encode() + b"\n")


def _save_in_steps(path: Path, array: np.ndarray) -> Iterator[float]:
    """Write a `.npy` file, yielding the fraction done now and then."""
    with replace_when_complete(path) as temporary, temporary.open("wb") as stream:
        whole = np.ascontiguousarray(array[:0])
        header = {**np.lib.format.header_data_from_array_1_0(whole), "shape": array.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        yield from write_in_steps(stream, array)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as stream:
        if not stream.seek(0, os.SEEK_END):
            return True
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
