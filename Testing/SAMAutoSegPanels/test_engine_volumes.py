from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from SAMAutoSegPanels.EngineVolumes import EngineVolumes

from SAMAutoSegLib.engine.arrays import open_array
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Grid, Volume

GRID = Grid((5, 4, 3), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), np.eye(3))


class Node:
    """As much of a volume node as tells whether it changed."""

    def __init__(self, nodeId: str = "node1") -> None:
        self.changed = 1
        self.nodeId = nodeId

    def GetID(self) -> str:
        return self.nodeId

    def GetImageData(self) -> Any:
        scalars = SimpleNamespace(GetMTime=lambda: self.changed)
        points = SimpleNamespace(GetScalars=lambda: scalars)
        return SimpleNamespace(
            GetPointData=lambda: points, GetDimensions=lambda: (5, 4, 3), GetMTime=lambda: 0
        )

    def GetOrigin(self) -> tuple[float, ...]:
        return 0.0, 0.0, 0.0

    GetSpacing = GetOrigin

    def GetIJKToRASDirections(self, matrix: list) -> None:
        pass


class Client:
    """Answers at once, or when the test says so."""

    state = "ready"
    atOnce = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[str, dict]] = []
        self.waiting: list[Callable[[], None]] = []

    def send(self, do: str, params: dict, **callbacks: Callable) -> None:
        self.sent.append((do, params))
        if do == "open_volume":
            result = {"volume": f"key{len(self.sent)}"}
            self.waiting.append(lambda: callbacks["on_result"](result))
        if self.atOnce:
            self.answer()

    def answer(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    @property
    def done(self) -> list[str]:
        return [do for do, params in self.sent]


@pytest.fixture
def array() -> np.ndarray:
    return np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


@pytest.fixture
def volumes(client: Client, later: Any, array: np.ndarray) -> EngineVolumes:
    return EngineVolumes(client, later, lambda node: Volume(array, GRID, "CT", modality="CT"))


def fail(message: str) -> None:
    pytest.fail(message)


def test_the_voxels_arrive_with_their_grid(
    volumes: EngineVolumes, client: Client, later: Any, array: np.ndarray
) -> None:
    keys: list[str] = []
    volumes.open(Node(), keys.append, fail)
    later.run()
    assert keys == ["key1"]
    ((do, params),) = client.sent
    assert do == "open_volume" and params["size"] == [5, 4, 3] and params["modality"] == "CT"
    assert (open_array(params["array"]) == array).all()


def test_the_same_volume_is_handed_over_once(
    volumes: EngineVolumes, client: Client, later: Any
) -> None:
    node, keys = Node(), []
    for _ in range(3):
        volumes.open(node, keys.append, fail)
        later.run()
    assert keys == ["key1"] * 3 and len(client.sent) == 1


def opened_before_and_after_a_change(volumes: EngineVolumes, later: Any) -> list[str]:
    """The keys that are told, now or once the engine answers."""
    node, keys = Node(), []
    volumes.open(node, keys.append, fail)
    later.run()
    node.changed = 2
    volumes.open(node, keys.append, fail)
    later.run()
    return keys


def test_a_volume_that_changed_is_handed_over_anew_and_the_old_one_closed(
    volumes: EngineVolumes, client: Client, later: Any
) -> None:
    keys = opened_before_and_after_a_change(volumes, later)
    assert client.done == ["open_volume", "close_volume", "open_volume"]
    assert keys[0] != keys[1]


def test_a_cancelled_opening_leaves_no_file_and_calls_nobody(
    volumes: EngineVolumes, client: Client, later: Any, tmp_path: Path
) -> None:
    opening = volumes.open(Node(), fail, fail)
    later.run(steps=1)
    opening.cancel()
    later.run()
    assert list(tmp_path.iterdir()) == [] and client.sent == []


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_whoever_needs_a_volume_that_is_on_its_way_waits_for_the_same_one(
    volumes: EngineVolumes, client: Client, later: Any, steps: int
) -> None:
    client.atOnce = False
    node, keys = Node(), []
    volumes.open(node, keys.append, fail)
    later.run(steps)
    volumes.open(node, keys.append, fail)
    volumes.open(node, fail, fail).cancel()
    later.run()
    client.answer()
    assert keys == ["key1", "key1"] and client.done == ["open_volume"]
    volumes.closeAll()
    assert client.sent[1:] == [("close_volume", {"volume": "key1"})]


def test_one_who_cancels_does_not_take_the_volume_from_the_others(
    volumes: EngineVolumes, later: Any
) -> None:
    node, keys = Node(), []
    first = volumes.open(node, fail, fail)
    volumes.open(node, keys.append, fail)
    first.cancel()
    later.run()
    assert keys == ["key1"]


def test_a_volume_that_changes_on_its_way_is_closed_when_it_is_there_and_all_get_the_new_one(
    volumes: EngineVolumes, client: Client, later: Any
) -> None:
    client.atOnce = False
    keys = opened_before_and_after_a_change(volumes, later)
    client.answer()
    assert client.done == ["open_volume", "open_volume", "close_volume"]
    assert client.sent[2][1] == {"volume": "key1"} and keys == ["key2", "key2"]


@pytest.mark.parametrize("steps", [1, 100])
def test_a_volume_that_is_removed_on_its_way_is_told_and_does_not_stay_with_the_engine(
    volumes: EngineVolumes, client: Client, later: Any, tmp_path: Path, steps: int
) -> None:
    client.atOnce = False
    told: list[str] = []
    volumes.open(Node(), fail, told.append)
    later.run(steps)
    volumes.close("node1")
    later.run()
    client.answer()
    assert told == ["the volume was removed"]
    assert client.done == (["open_volume", "close_volume"] if steps > 1 else [])
    assert steps > 1 or list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("state", ["failed", "starting"])
def test_a_volume_closed_after_a_crash_is_not_kept_by_the_next_process(
    volumes: EngineVolumes, client: Client, later: Any, state: str
) -> None:
    node = Node()
    volumes.open(node, lambda key: None, fail)
    later.run()
    client.state = state
    volumes.close("node1")
    client.state = "ready"
    volumes.open(node, lambda key: None, fail)
    later.run()
    assert client.sent[1] == ("close_volume", {"volume": "key1"})
    assert client.done == ["open_volume", "close_volume", "open_volume"]


def test_who_waits_when_the_engine_is_ended_is_told(
    volumes: EngineVolumes, client: Client, later: Any
) -> None:
    told: list[str] = []
    volumes.open(Node(), fail, told.append)
    volumes.forget()
    later.run()
    assert client.sent == [] and "try again" in told[0]


def test_of_many_volumes_the_engine_keeps_those_that_were_asked_for_last(
    client: Client, volumes: EngineVolumes, later: Any
) -> None:
    keys: dict[str, str] = {}
    for name in "abcadea":
        volumes.open(Node(name), lambda key, name=name: keys.update({name: key}), fail)
        later.run()
    # d comes in the place of b, e in that of c, and a is there all the time.
    opened = [keys[name] for name in "abcde"]
    assert len(set(opened)) == 5 and client.done.count("open_volume") == 5
    closed = [params["volume"] for do, params in client.sent if do == "close_volume"]
    assert closed == [keys["b"], keys["c"]]


def test_a_volume_that_cannot_be_read_is_told(client: Client, later: Any) -> None:
    def refuse(node: object) -> Volume:
        raise SAMAutoSegError("the volume 'CT' is empty")

    told: list[str] = []
    EngineVolumes(client, later, refuse).open(Node(), fail, told.append)
    later.run()
    assert told == ["the volume 'CT' is empty"]
