"""The real engine process on a tiny model, and a client that is pumped by the tests."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard, save_adapted
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.engine.client import EngineClient, PendingRequest
from SAMAutoSegLib.engine.volumes import facts_of
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import standard_structures
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.sam import architecture
from SAMAutoSegLib.sam.architecture import ViTShape, build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.segment.volume import segment_volume

from .pipe_transport import PipeTransport

LAUNCHER = str(Path(__file__).with_name("tiny.py"))

GRID = Grid((40, 30, 12), (0.8, 0.8, 5.0), (-12.5, 30.0, 100.0), np.diag([-1.0, -1.0, 1.0]))


def tiny_command(module: str) -> list[str]:
    """The command of an engine module, with the tiny SAM in the place of ViT-B."""
    return [sys.executable, LAUNCHER, module]


@dataclass
class Files:
    """Files of a tiny model, what the library computes from them, and where all of it lies."""

    folder: Path
    base: Path
    model: Path
    volume: Volume
    labels: np.ndarray

    def opening(self) -> dict[str, Any]:
        """Parameters of `open_volume`."""
        return {"array": self.volume.array, **facts_of(self.volume), "name": "scan"}

    def segmenting(self, volume: str, **more: Any) -> dict[str, Any]:
        chosen = {"model": str(self.model), "base": str(self.base), "device": "cpu"}
        return {"volume": volume, **chosen, **more}

    def clicking(self, volume: str, number: int = 3, **more: Any) -> dict[str, Any]:
        chosen = {"backbone": str(self.base), "device": "cpu", "axis": "axial"}
        return {"volume": volume, **chosen, "slice": number, **more}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all lies that these tests and their processes write."""
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module", autouse=True)
def surroundings(folder: Path) -> Iterator[None]:
    """What processes started by these tests take for the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMAUTOSEG_CACHE", str(folder / "cache"))
        patch.setenv("SAMAUTOSEG_DATA", str(folder / "data"))
        (folder / "temporary").mkdir(exist_ok=True)
        patch.setattr("tempfile.tempdir", str(folder / "temporary"))
        yield


@pytest.fixture(scope="session")
def files(folder: Path) -> Files:
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        shape = ViTShape(dim=32, depth=2, heads=2, global_blocks=(1,))
        patch.setitem(architecture.VIT_SHAPES, "vit_b", shape)
        torch.manual_seed(0)
        parts = build_parts("vit_b", 128)
        tensors = {
            f"{part}.{name}": tensor
            for part in ("image_encoder", "prompt_encoder", "mask_decoder")
            for name, tensor in getattr(parts, part).state_dict().items()
        }
        base = folder / "tiny.pth"
        torch.save(tensors, base)
        backbone = load_backbone(base, device="cpu")
        adapted = _adapted(backbone)
        save_adapted(folder / "organs.safetensors", adapted)
        rng = np.random.default_rng(0)
        array = rng.normal(100, 40, GRID.size[::-1]).astype(np.int16)
        volume = Volume(array, GRID, "scan")
        labels = segment_volume(volume, adapted).labels
        assert 0.05 < (labels == 2).mean() < 0.95  # something to compare
        return Files(folder, base, folder / "organs.safetensors", volume, labels)


def _adapted(backbone: Backbone) -> Adapted:
    model = AdaptedModel(backbone, 3, Adaptation()).eval()
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=Intensity("window", 0, 255),
        plane="axial",
        adaptation=model.adaptation,
        structures=tuple(standard_structures(["liver", "spleen"])),
        method="joint",
    )
    return Adapted(model, card, backbone)


@dataclass
class Answers:
    """What the callbacks of a request were told."""

    progress: list[tuple[float, str, float | None]] = field(default_factory=list)
    slices: dict[int, np.ndarray] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: tuple[str, str] | None = None
    cancelled: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        return not (self.result is None and self.error is None and self.cancelled is None)


@dataclass
class Driver:
    """A client, and the loop that a user interface would be."""

    client: EngineClient = field(init=False)
    states: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = EngineClient(
            lambda: PipeTransport(tiny_command("SAMAutoSegLib.engine")),
            lambda state, message: self.states.append(state),
            self.logged.append,
        )

    @property
    def transport(self) -> PipeTransport:
        assert isinstance(self.client.transport, PipeTransport)
        return self.client.transport

    def pump_until(self, done: Callable[[], bool], seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"nothing after {seconds} s; log: {self.logged}"
            if self.client.transport is not None:
                self.transport.pump(0.05)

    def send(self, do: str, **params: Any) -> tuple[PendingRequest, Answers]:
        answers, started = Answers(), time.monotonic()

        def on_result(fields: dict[str, Any]) -> None:
            answers.result, answers.seconds = fields, time.monotonic() - started

        pending = self.client.send(
            do,
            params,
            on_progress=lambda *told: answers.progress.append(told),
            on_slice=lambda number, axis, array: answers.slices.update({number: array}),
            on_result=on_result,
            on_error=lambda message, details: setattr(answers, "error", (message, details)),
            on_cancelled=lambda fields: setattr(answers, "cancelled", fields),
        )
        return pending, answers

    def ask(self, do: str, **params: Any) -> Answers:
        _, answers = self.send(do, **params)
        self.pump_until(lambda: answers.ended)
        return answers

    def result(self, do: str, **params: Any) -> dict[str, Any]:
        answers = self.ask(do, **params)
        assert answers.result is not None, answers.error
        return answers.result

    def refusal(self, do: str, **params: Any) -> str:
        answers = self.ask(do, **params)
        assert answers.error is not None and "\n" not in answers.error[0]
        return answers.error[0]


@pytest.fixture(scope="module")
def engine(files: Files) -> Iterator[Driver]:
    """One engine process for the tests of a file, which leave it running."""
    driver = Driver()
    yield driver
    driver.client.stop()


@pytest.fixture
def own_engine(files: Files) -> Iterator[Driver]:
    """An engine for one test, which may do to it what it likes."""
    driver = Driver()
    yield driver
    driver.client.stop()
