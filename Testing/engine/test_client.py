"""The client on a transport that the test plays: what it does without any process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAMAutoSegLib.engine import client as client_module
from SAMAutoSegLib.engine.client import EngineClient
from SAMAutoSegLib.engine.protocol import VERSION, ProtocolError
from SAMAutoSegLib.engine.transport import engine_environment
from SAMAutoSegLib.errors import SAMAutoSegError

OPENING: dict[str, Any] = {
    "size": [4, 3, 2],
    "spacing": [1.0, 1.0, 1.0],
    "origin": [0.0, 0.0, 0.0],
    "direction": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0],
    "name": "scan",
}


class Played:
    """A transport that keeps what is written; the test says what comes back."""

    def __init__(self) -> None:
        self.on_line: Callable[[str], None] = lambda line: None
        self.on_finished: Callable[[int, str], None] = lambda code, tail: None
        self.running = False
        self.written: list[dict[str, Any]] = []
        self.stopped: list[float] = []

    def start(self) -> None:
        self.running = True

    def write(self, line: str) -> None:
        self.written.append(json.loads(line))

    def stop(self, seconds: float) -> None:
        self.running = False
        self.stopped.append(seconds)

    def kill(self) -> None:
        self.running = False

    def asked(self, do: str) -> dict[str, Any]:
        return [request for request in self.written if request["do"] == do][-1]

    def say(self, event: str, do: str | None = None, **fields: Any) -> None:
        about = {} if do is None else {"id": self.asked(do)["id"]}
        self.on_line(json.dumps({"v": VERSION, "event": event, **about, **fields}))

    def greet(self) -> None:
        self.say("result", "hello", version=VERSION, python="3.12", torch="2.9", pid=None)

    def die(self, code: int = -9) -> None:
        self.running = False
        self.on_finished(code, "last words")


@dataclass
class Case:
    """A client with its transports, and all that it told."""

    client: EngineClient = field(init=False)
    transports: list[Played] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    told: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        def make() -> Played:
            self.transports.append(Played())
            return self.transports[-1]

        self.client = EngineClient(
            make, lambda *state: self.states.append(state), self.logged.append
        )

    @property
    def engine(self) -> Played:
        return self.transports[-1]

    def send(self, do: str, **params: Any) -> Any:
        return self.client.send(
            do,
            params,
            on_progress=lambda *told: self.told.append(("progress", *told)),
            on_slice=lambda *told: self.told.append(("slice", *told)),
            on_result=lambda told: self.told.append(("result", told)),
            on_error=lambda *told: self.told.append(("error", *told)),
            on_cancelled=lambda told: self.told.append(("cancelled", told)),
        )

    def open(self) -> str:
        self.send("open_volume", array=np.zeros((2, 3, 4), np.int16), **OPENING)
        volume = self.engine.asked("open_volume")["volume"]
        self.engine.say("result", "open_volume", volume=volume)
        return volume


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    case = Case()
    yield case
    case.client.stop()
    assert list(tmp_path.iterdir()) == []


def test_importing_the_client_side_is_light() -> None:
    code = (
        "import sys; import SAMAutoSegLib.engine.client, SAMAutoSegLib.engine.jobs; "
        "heavy = 'torch SimpleITK scipy monai PIL matplotlib safetensors platformdirs'.split(); "
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, **engine_environment()}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert ran.stdout.split() == [b"[]"], ran.stderr


def test_the_states_follow_the_work(case: Case) -> None:
    case.client.start()
    case.send("devices")
    case.engine.greet()
    case.engine.say("result", "devices", devices=[])
    case.client.stop()
    names = [state for state, _ in case.states]
    assert names == ["starting", "ready", "busy", "ready", "stopped"]
    assert case.states[1][1] == "Python 3.12, PyTorch 2.9"


def test_a_request_starts_the_process(case: Case) -> None:
    pending = case.send("devices")
    assert [request["do"] for request in case.engine.written] == ["hello", "devices"]
    case.engine.greet()
    case.engine.say("progress", "devices", fraction=0.5, message="looking", seconds_left=2.0)
    case.engine.say("result", "devices", devices=[])
    assert pending.done
    assert case.told == [("progress", 0.5, "looking", 2.0), ("result", {"devices": []})]


def test_cancelling_asks_once_and_not_for_what_is_done(case: Case) -> None:
    pending = case.send("devices")
    pending.cancel()
    assert case.engine.asked("cancel")["request"] == pending.id
    case.engine.say("cancelled", "devices")
    written = len(case.engine.written)
    pending.cancel()
    assert pending.done and len(case.engine.written) == written


def test_a_crash_fails_what_is_pending_with_one_message(case: Case) -> None:
    case.client.start()
    case.engine.greet()
    pending = [case.send("devices"), case.send("devices")]
    case.engine.die()
    assert [kind for kind, *_ in case.told] == ["error", "error"]
    assert all("ended unexpectedly, perhaps because memory ran out" in m for _, m, _ in case.told)
    assert "last words" in case.told[0][2] and all(one.done for one in pending)
    assert case.states[-1][0] == "failed" and case.states[-1][1] == case.told[0][1]


def test_after_a_crash_the_next_request_finds_the_volumes_open(case: Case) -> None:
    kept, closed = case.open(), case.open()
    case.send("close_volume", volume=closed)
    case.engine.say("result", "close_volume")
    before = case.engine.asked("open_volume")
    case.engine.die()
    case.send("devices")
    assert len(case.transports) == 2
    assert [r["do"] for r in case.engine.written] == ["hello", "open_volume", "devices"]
    again = case.engine.asked("open_volume")
    assert again["volume"] == kept and Path(again["array"]["file"]).exists()
    assert again["array"] != before["array"]


def test_what_a_crashed_process_left_is_removed(case: Case) -> None:
    case.open()
    (case.client.folder / "slice.array").touch()
    volume = case.engine.asked("open_volume")["array"]["file"]
    case.engine.die()
    assert {path.name for path in case.client.folder.iterdir()} == {"lock", Path(volume).name}


def test_crashes_without_end_are_given_up_for_a_while(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(client_module, "_now", lambda: now)
    for _ in range(3):
        case.send("devices")
        case.engine.die(1)
    case.told.clear()
    pending = case.send("devices")
    assert pending.done and "3 times within a minute" in case.told[0][1]
    assert len(case.transports) == 3
    now += 61
    case.send("devices")
    assert len(case.transports) == 4


def test_a_process_that_cannot_start_says_why(case: Case) -> None:
    case.send("devices")
    case.engine.die(1)
    assert "could not start (last words)" in case.told[0][1]


def test_an_engine_of_another_version_is_not_used(case: Case) -> None:
    case.send("devices")
    first = case.engine
    id = first.asked("hello")["id"]
    first.on_line(json.dumps({"v": VERSION + 1, "id": id, "event": "result"}))
    assert not first.running and case.states[-1][0] == "failed"
    assert "restart the program" in case.told[0][1]


def test_garbage_from_the_process_is_logged_and_nothing_else(case: Case) -> None:
    pending = case.send("devices")
    for line in ("Traceback (most recent call last):", "{}", "[]", '{"v": 1, "event": "result"}'):
        case.engine.on_line(line)
    case.engine.on_line(json.dumps({"v": VERSION, "id": 999, "event": "result"}))
    case.engine.say("error", message="no request", details="")
    assert len(case.logged) == 5 and not pending.done
    case.engine.say("slice", "devices", number="seven")
    assert pending.done and case.told[0][0] == "error"


def test_an_array_file_outside_of_the_session_is_left_alone(case: Case, tmp_path: Path) -> None:
    case.send("devices")
    other = tmp_path / "mine.array"
    other.write_bytes(b"12345678")
    shared = {"file": str(other), "dtype": "<i8", "shape": [1]}
    case.engine.say("result", "devices", mask=shared)
    assert case.told[0][0] == "error" and other.exists()
    other.unlink()


def test_a_full_disk_is_told_before_anything_is_sent(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, array: np.ndarray) -> None:
        raise SAMAutoSegError("cannot write: the disk is full")

    case.client.start()
    monkeypatch.setattr(client_module, "share_array", full)
    pending = case.send("open_volume", array=np.zeros((2, 3, 4)), **OPENING)
    assert pending.done and case.told == [("error", "cannot write: the disk is full", "")]
    assert [request["do"] for request in case.engine.written] == ["hello"]


def test_wrong_parameters_are_the_callers_fault(case: Case) -> None:
    with pytest.raises(ProtocolError, match="volume"):
        case.send("segment", model="m")
    assert case.told == []


def test_stopping_cancels_what_is_pending_and_is_bounded(case: Case) -> None:
    pending = case.send("devices")
    case.client.stop(1.5)
    assert case.engine.stopped == [1.5] and case.engine.asked("shutdown")
    assert pending.done and case.told == [("cancelled", {})]
    case.engine.say("result", "devices")  # too late
    case.engine.say("log", message="and nobody hears it")
    case.engine.on_finished(0, "")
    assert len(case.told) == 1 and case.states[-1][0] == "stopped" and case.logged == []
    case.client.start()
    assert case.client.state == "starting"
