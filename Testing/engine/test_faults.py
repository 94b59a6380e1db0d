"""Faults inside of the service, which the tests bring about themselves: no process is started."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from SAMAutoSegLib.engine import channel, clicks, service
from SAMAutoSegLib.engine.arrays import share_array
from SAMAutoSegLib.engine.channel import Channel, read_requests
from SAMAutoSegLib.engine.explain import explain
from SAMAutoSegLib.engine.protocol import Request
from SAMAutoSegLib.engine.service import Service
from SAMAutoSegLib.engine.work_queue import WorkQueue
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam import architecture
from SAMAutoSegLib.sam.architecture import ViTShape

from .conftest import Files


@dataclass
class Case:
    """A service in this process, which answers what is put into its queue."""

    files: Files
    folder: Path
    service: Service
    work: WorkQueue
    output: int

    def ask(self, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """All that is told until the last request is answered."""
        for id, (do, params) in enumerate(requests):
            self.work.put(Request(id, do, params))
        self.work.put(Request(99, "devices", {}))
        told: list[dict[str, Any]] = []
        thread = threading.Thread(target=self.service.run, daemon=True)
        thread.start()
        with os.fdopen(os.dup(self.output), "rb") as stream:
            while len({e["id"] for e in told if e["event"] in _ENDS}) <= len(requests):
                told.append(json.loads(stream.readline()))
        self.work.close()
        thread.join(60)
        assert not thread.is_alive()
        return told


_ENDS = ("result", "error", "cancelled")


@pytest.fixture
def case(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    shape = ViTShape(dim=32, depth=2, heads=2, global_blocks=(1,))
    monkeypatch.setitem(architecture.VIT_SHAPES, "vit_b", shape)
    monkeypatch.setattr(service, "leave_a_core", lambda: 1)
    reading, writing = os.pipe()
    work = WorkQueue()
    yield Case(files, tmp_path, Service(Channel(writing), work, lambda: tmp_path), work, reading)
    os.close(reading)
    os.close(writing)


def opening(case: Case) -> tuple[str, dict[str, Any]]:
    params = {**case.files.opening(), "volume": "v"}
    return "open_volume", {**params, "array": share_array(case.folder, params["array"])}


def ended(told: list[dict[str, Any]], id: int) -> dict[str, Any]:
    (last,) = [event for event in told if event["id"] == id and event["event"] in _ENDS]
    return last


def failing(error: Exception) -> Callable[..., None]:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "not enough memory: close other programs"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (ZeroDivisionError("by\nzero"), "something went wrong inside the program (ZeroDivision"),
        (SAMAutoSegError("slice 3 is odd: choose an even one"), "slice 3 is odd: choose an even"),
    ],
)
def test_an_error_is_told_in_one_line_and_the_service_lives_on(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr(service, "segment_volume", failing(error))
    events = case.ask(opening(case), ("segment", case.files.segmenting("v")))
    answer = ended(events, 1)
    assert answer["event"] == "error" and answer["message"].startswith(told)
    assert "\n" not in answer["message"] and "Traceback" in answer["details"]
    assert ended(events, 99)["event"] == "result"
    assert len(list(case.folder.iterdir())) == 1  # the volume; nothing was left of the labels


def test_memory_that_ran_out_frees_models_and_embeddings(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    models, clicked = case.service._models, case.service._clicks
    monkeypatch.setattr(models, "forget", lambda: forgotten.append("models"))
    monkeypatch.setattr(clicked, "forget", lambda: forgotten.append("clicks"))
    cause = SAMAutoSegError("too little for slice 1")
    cause.__cause__ = MemoryError()
    monkeypatch.setattr(service, "segment_volume", failing(cause))
    case.ask(opening(case), ("segment", case.files.segmenting("v")))
    assert sorted(forgotten) == ["clicks", "models"]


def test_what_fails_ahead_is_told_and_not_tried_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clicks.Clicks, "look_ahead", failing(MemoryError()))
    told: list[str] = []
    monkeypatch.setattr(
        case.service._channel, "send", lambda event, id=None, **f: told.append(f["message"])
    )
    assert case.service._look_ahead() is False
    assert told[0].startswith("slices are not prepared ahead: not enough memory")


def test_a_click_is_answered_in_the_middle_of_a_slice_that_is_encoded_ahead(case: Case) -> None:
    clicking = case.files.clicking("v", points=[[10, 12, 1]])
    case.ask(opening(case), ("prepare_clicks", case.files.clicking("v")), ("click", clicking))
    case.work.closed = False
    order: list[str] = []
    inner = case.service._click

    def click(request: Request) -> dict[str, Any]:
        order.append("click")
        return inner(request)

    def look_ahead() -> bool:
        case.work.put(Request(50, "click", clicking))  # as the thread that reads does
        case.service._clicks.prepare({**case.files.clicking("v"), "slice": 9, "intensity": "0,99"})
        order.append("encoded")
        return True

    case.service._click = click  # type: ignore[method-assign]
    case.service._clicks.look_ahead = look_ahead  # type: ignore[method-assign]
    assert case.service._look_ahead() and order == ["click", "encoded"]


def test_encoding_ahead_ends_with_the_process(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        case.service._channel, "send", lambda event, id=None, **f: told.append(event)
    )

    def look_ahead() -> bool:
        case.work.close()
        torch.nn.Linear(1, 1)(torch.ones(1))
        raise AssertionError("it went on")

    monkeypatch.setattr(case.service._clicks, "look_ahead", look_ahead)
    assert case.service._look_ahead() is False and told == []


def test_slices_that_a_full_disk_hides_are_in_the_result(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = failing(SAMAutoSegError("cannot write: the disk is full"))
    asked = opening(case)
    monkeypatch.setattr(service, "share_array", full)
    events = case.ask(asked, ("segment", case.files.segmenting("v")))
    answer = ended(events, 1)
    assert answer["event"] == "result" and not [e for e in events if e["event"] == "slice"]
    assert answer["notes"] == ["the disk is full: 12 slices were not shown before the end"]


def test_an_error_of_pytorch_itself_can_be_explained() -> None:
    message, details = explain(ImportError("no torch"))
    assert "ImportError: no torch" in message and details


def test_lines_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_BLOCK_BYTES", 7)
    reading, writing = os.pipe()
    taken: list[Request] = []
    for id in (1, 2):
        os.write(writing, b'{"v": 1, "id": %d, "do": "devices"}\r\n\n' % id)
    os.close(writing)
    read_requests(reading, Channel(1), taken.append)
    os.close(reading)
    assert [request.id for request in taken] == [1, 2]
