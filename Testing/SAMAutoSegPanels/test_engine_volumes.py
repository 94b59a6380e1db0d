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

    def __init__(self) -> None:
        self.changed = 1

    def GetID(self) -> str:
        return "node1"

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
    state = "ready"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[str, dict]] = []

    def send(self, do: str, params: dict, **callbacks: Callable) -> None:
        self.sent.append((do, params))
        if do == "open_volume":
            callbacks["on_result"]({"volume": f"key{len(self.sent)}"})


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


def test_a_volume_that_changed_is_handed_over_anew_and_the_old_one_closed(
    volumes: EngineVolumes, client: Client, later: Any
) -> None:
    node, keys = Node(), []
    volumes.open(node, keys.append, fail)
    later.run()
    node.changed = 2
    volumes.open(node, keys.append, fail)
    later.run()
    assert [do for do, _ in client.sent] == ["open_volume", "close_volume", "open_volume"]
    assert keys[0] != keys[1]


def test_a_cancelled_opening_leaves_no_file_and_calls_nobody(
    volumes: EngineVolumes, client: Client, later: Any, tmp_path: Path
) -> None:
    opening = volumes.open(Node(), fail, fail)
    later.run(steps=1)
    opening.cancel()
    later.run()
    assert list(tmp_path.iterdir()) == [] and client.sent == []


def test_a_volume_that_cannot_be_read_is_told(client: Client, later: Any) -> None:
    def refuse(node: object) -> Volume:
        raise SAMAutoSegError("the volume 'CT' is empty")

    told: list[str] = []
    EngineVolumes(client, later, refuse).open(Node(), fail, told.append)
    later.run()
    assert told == ["the volume 'CT' is empty"]
