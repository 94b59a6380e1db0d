"""A run against an engine and a scene that are played."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from SAMAutoSegPanels.ModelLibrary import ModelEntry
from SAMAutoSegPanels.SegmentRun import SegmentRun
from SAMAutoSegPanels.SegmentState import CANCELLING, IDLE, PREPARING, RUNNING

from SAMAutoSegLib.errors import SAMAutoSegError

LABELS = np.ones((4, 5), np.uint8)


class Opening:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Volumes:
    """Opens when the test says so."""

    def open(self, node: object, onReady: Callable, onError: Callable) -> Opening:
        self.opening, self.ready, self.error = Opening(), onReady, onError
        return self.opening


class Client:
    """Keeps the last request, for the test to answer."""

    def send(self, do: str, params: dict, **callbacks: Callable) -> Any:
        self.do, self.params, self.tell = do, params, SimpleNamespace(**callbacks)
        self.cancels = 0
        self.pending = SimpleNamespace(done=False, cancel=self._cancel)
        return self.pending

    def _cancel(self) -> None:
        self.cancels += 1


class Scene:
    """Notes what is written; `gone` makes the next writing fail."""

    sliceCount = 30

    def __init__(self) -> None:
        self.written: list[int] = []
        self.provenance: dict = {}
        self.ends = 0
        self.abandoned = 0
        self.gone = ""
        self.elsewhere: dict = {}

    def begin(
        self,
        volume: object,
        structures: list,
        node: object,
        plane: str,
        provenance: dict,
        region: object,
    ) -> Any:
        if self.gone:
            raise SAMAutoSegError(self.gone)
        self.provenance, self.region = provenance, region
        return SimpleNamespace(node=node or "new node", notes=[])

    def corrected(self) -> dict:
        return {"corrected_slices": [2], "corrected": LABELS[None]}

    def write(self, number: int, plane: str, labels: np.ndarray) -> None:
        if self.gone:
            raise SAMAutoSegError(self.gone)
        self.written.append(number)

    def slicesOf(self, labels: object, plane: str, numbers: list[int]) -> Any:
        return [(n, plane, LABELS) for n in numbers]

    def end(self, uncertainty: object) -> Any:
        self.ends += 1
        return SimpleNamespace(protected=[], elsewhere=self.elsewhere, locked=[])

    def abandon(self) -> None:
        self.abandoned += 1


class Played:
    def __init__(self, later: Any, path: Path, follow: bool = False, **request: Any) -> None:
        self.later, self.client, self.volumes, self.scene = later, Client(), Volumes(), Scene()
        session = SimpleNamespace(client=self.client, volumes=self.volumes, later=later)
        model = ModelEntry(path, "Organs", 2, ("liver",))
        self.run = SegmentRun(session, self.scene, model, "volume", None, request, "axial", follow)

    def toEngine(self) -> "Played":
        self.run.start()
        self.volumes.ready("key")
        return self

    def slice(self, number: int) -> None:
        self.client.tell.on_slice(number, "axial", LABELS)

    def result(self, numbers: list[int], **more: Any) -> None:
        self.client.pending.done = True
        self.client.tell.on_result(
            {"labels": LABELS, "axis": "axial", "slices_done": numbers, "notes": [], **more}
        )


@pytest.fixture
def played(later: Any, save_model: Callable[..., Path]) -> Callable[..., Played]:
    return lambda **request: Played(later, save_model("Organs v2.safetensors"), **request)


def test_slices_are_written_as_they_come_one_for_each_turn_of_the_event_loop(
    played: Callable[..., Played],
) -> None:
    one = played().toEngine()
    assert one.run.state == RUNNING and one.client.params["volume"] == "key"
    one.slice(4)
    one.slice(5)
    one.later.run(steps=1)
    assert one.scene.written == [4]
    one.later.run()
    assert one.scene.written == [4, 5]
    one.result([4, 5])
    one.later.run()
    assert one.run.state == IDLE and not one.run.failed
    assert one.run.message == "Done: 2 slices."
    provenance = one.scene.provenance
    assert one.scene.ends == 1
    assert (provenance["model"], provenance["version"]) == ("Organs", "2")
    assert len(provenance["sha256"]) == 64


def test_corrected_slices_go_along_if_the_others_are_to_follow(
    played: Callable[..., Played],
) -> None:
    assert played(follow=True).toEngine().client.params["corrected_slices"] == [2]
    assert "corrected_slices" not in played().toEngine().client.params


def test_the_scene_is_told_the_region(played: Callable[..., Played]) -> None:
    region = [[0, 5], [1, 4], [0, 30]]
    one = played(roi=region).toEngine()
    assert one.client.params["roi"] == one.scene.region == region
    assert played().toEngine().scene.region is None


def test_a_fault_of_the_program_ends_the_run(played: Callable[..., Played]) -> None:
    one = played().toEngine()
    one.slice(4)
    one.later.run()
    one.scene.write = None  # type: ignore[assignment]
    one.slice(5)
    with pytest.raises(TypeError):
        one.later.run()
    assert one.run.failed and not one.run.running and one.client.cancels == 1
    assert "unexpected error" in one.run.message and one.scene.abandoned == 1


def test_a_fault_at_the_end_of_the_run_ends_it_too(played: Callable[..., Played]) -> None:
    one = played().toEngine()
    one.scene.end = None  # type: ignore[assignment]
    one.result([])
    with pytest.raises(TypeError):
        one.later.run()
    assert one.run.failed and not one.run.running
    assert "unexpected error" in one.run.message and one.scene.abandoned == 1


def test_the_result_waits_for_slices_that_are_not_written_yet(
    played: Callable[..., Played],
) -> None:
    one = played().toEngine()
    one.slice(4)
    one.result([4])
    assert one.scene.written == [] and one.run.running
    one.later.run()
    assert one.scene.written == [4] and not one.run.running


def test_what_was_left_alone_in_another_plane_is_told(played: Callable[..., Played]) -> None:
    one = played().toEngine()
    one.scene.elsewhere = {"sagittal": [4, 5, 6], "coronal": [2]}
    one.slice(4)
    one.result([4])
    one.later.run()
    assert "What lies in the sagittal slices 4-6 was left as it is" in one.run.message
    assert "What lies in the coronal slice 2 was left as it is" in one.run.message


def test_what_a_refinement_changed_is_told(played: Callable[..., Played]) -> None:
    one = played(refine=1).toEngine()
    one.slice(4)
    one.result([4], refined={"first pass": 4, "sure, no prompt": 3, "refinement kept": 2})
    one.later.run()
    assert "Refined: 2 of 7 outlines were changed, the model was sure of 3." in one.run.message


def test_clean_up_writes_the_slices_once_more(played: Callable[..., Played]) -> None:
    one = played(cleanup={"largest_component": True}).toEngine()
    one.slice(4)
    one.result([4])
    one.later.run()
    assert one.scene.written == [4, 4]


def test_a_cancel_keeps_what_is_done(played: Callable[..., Played]) -> None:
    one = played().toEngine()
    one.slice(4)
    one.run.cancel()
    assert one.run.state == CANCELLING and one.client.cancels == 1
    one.client.pending.done = True
    one.client.tell.on_cancelled({"axis": "axial", "slices_done": [4], "labels": LABELS})
    one.later.run()
    assert one.scene.written == [4] and one.scene.ends == 1
    assert one.run.message == "Stopped: 1 of 30 slices are done and kept."


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_engine_that_is_ended_in_the_middle_leaves_what_is_done_and_says_how_much(
    played: Callable[..., Played], cancelled: bool
) -> None:
    one = played().toEngine()
    for number in range(12):
        one.slice(number)
    one.later.run(steps=5)
    if cancelled:
        one.run.cancel()
    one.client.pending.done = True
    one.client.tell.on_cancelled({})
    one.later.run()
    assert one.scene.written == list(range(12)) and one.scene.ends == 1
    assert one.run.message == "Stopped: 12 of 30 slices are done and kept."


def test_slices_that_a_full_disk_kept_from_being_shown_come_with_the_result(
    played: Callable[..., Played],
) -> None:
    one = played().toEngine()
    one.slice(4)
    one.later.run()
    one.result([4, 5])
    one.later.run()
    assert one.scene.written == [4, 5] and one.run.message == "Done: 2 slices."


def test_a_cancel_while_the_volume_is_handed_over_sends_nothing(
    played: Callable[..., Played],
) -> None:
    one = played()
    one.run.start()
    assert one.run.state == PREPARING
    one.run.cancel()
    assert one.volumes.opening.cancelled and not one.run.running
    assert not hasattr(one.client, "do")


def test_a_crash_shows_the_slices_that_came_and_why_it_ended(
    played: Callable[..., Played],
) -> None:
    one = played().toEngine()
    one.slice(4)
    one.client.pending.done = True
    one.client.tell.on_error("memory ran out", "")
    one.later.run()
    assert one.scene.written == [4] and one.scene.abandoned == 1
    assert one.run.failed and one.run.message == "Memory ran out"


def test_a_segmentation_that_does_not_fit_is_told_before_anything_is_computed(
    played: Callable[..., Played],
) -> None:
    one = played()
    one.scene.gone = "the segmentation 'S' does not fit the volume"
    one.run.start()
    one.volumes.ready("key")
    assert one.run.failed and "does not fit" in one.run.message
    assert not hasattr(one.client, "do")


def test_a_segmentation_deleted_in_the_middle_ends_the_run_and_the_computing(
    played: Callable[..., Played],
) -> None:
    one = played().toEngine()
    one.slice(4)
    one.later.run()
    one.scene.gone = "the segmentation 'S' was removed"
    one.slice(5)
    one.slice(6)
    one.later.run()
    assert one.client.cancels == 1 and one.scene.written == [4]
    assert one.run.failed and one.run.message == "The segmentation 'S' was removed"


def test_closing_the_scene_touches_no_node_any_more(played: Callable[..., Played]) -> None:
    one = played().toEngine()
    one.slice(4)
    one.run.abandon()
    one.slice(5)
    one.client.tell.on_cancelled({"axis": "axial", "slices_done": [4]})
    one.later.run()
    assert one.scene.written == [] and one.scene.ends == 0
    assert one.client.cancels == 1 and not one.run.running


def test_a_model_deleted_after_it_was_listed_is_told(played: Callable[..., Played]) -> None:
    one = played()
    one.run._model.path.unlink()
    one.toEngine()
    assert one.run.failed and "deleted or moved" in one.run.message


def test_it_knows_which_nodes_it_needs(played: Callable[..., Played]) -> None:
    one = played().toEngine()
    assert one.run.uses("volume") and one.run.uses("new node")
    assert not one.run.uses("other") and not one.run.uses(None)
