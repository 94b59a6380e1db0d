"""The steps of the set-up; Slicer's installers are played."""

import importlib
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from SAMAutoSegPanels.SetUpState import EXTENSION, TORCH


class Played:
    """Slicer with the PyTorch extension; `started` is the process that runs now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: dict[str, Any] = {}
        self.told: list[str] = []
        self.status: list[str] = []
        self.extensions = MagicMock()
        self.logic = MagicMock()
        self.logic._getPipInstallArguments.side_effect = lambda torchVersionRequirement: [
            "install",
            f"torch{torchVersionRequirement}",
        ]
        util = SimpleNamespace(
            executePythonModule=lambda *what, **how: self.started.update(how, what=what),
            showStatusMessage=lambda text, *_: self.status.append(text),
        )
        app = SimpleNamespace(extensionsManagerModel=lambda: self.extensions)
        slicer = SimpleNamespace(util=util, app=app)
        utils = SimpleNamespace(PyTorchUtilsLogic=self.logic)
        modules = {"slicer": slicer, "qt": MagicMock(), "PyTorchUtils": utils}
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.Dependencies", raising=False)
        module = importlib.import_module("SAMAutoSegPanels.Dependencies")
        monkeypatch.delitem(sys.modules, "SAMAutoSegPanels.Dependencies")
        self.module = module
        self.dependencies = module.Dependencies("requirements.txt")

    def install(self, step: str) -> None:
        self.dependencies.install(step, self.told.append)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_pytorch_is_installed_while_slicer_goes_on(played: Played) -> None:
    played.install(TORCH)
    assert played.started["what"] == ("light_the_torch", ["install", "torch>=2.4"])
    assert played.started["blocking"] is False and played.told == []
    played.started["logCallback"]("  Downloading torch-2.9.1.whl (899.7 MB)")
    assert played.status == ["Downloading torch-2.9.1.whl (899.7 MB)"]
    played.started["completedCallback"](0)
    assert played.told == [""] and played.status[-1] == ""


def test_an_old_pytorch_of_another_extension_will_not_do(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, enough in (("2.2.2", False), ("2.4.0+cu121", True), ("3.0a1", True), ("", True)):
        monkeypatch.setattr(played.module, "version", lambda name, told=version: told)
        assert played.dependencies.hasTorch() is enough


@pytest.mark.parametrize(
    ("system", "machine", "impossible"),
    [("darwin", "x86_64", True), ("darwin", "arm64", False), ("linux", "x86_64", False)],
)
def test_for_intel_macs_there_is_no_pytorch(
    played: Played,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    impossible: bool,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert played.dependencies.torchCannotBe() is impossible


def test_why_pip_failed_is_told(played: Played) -> None:
    played.install(TORCH)
    for line in ("Collecting torch", "ERROR: No matching distribution found", "a hint"):
        played.started["logCallback"](line)
    played.started["completedCallback"](1)
    assert played.told == [
        "Installing PyTorch failed (No matching distribution found). Check the internet connection."
    ]


def test_an_extension_with_other_insides_installs_in_its_own_way(played: Played) -> None:
    del played.logic._getPipInstallArguments
    played.install(TORCH)
    assert played.started == {} and played.told == [""]
    played.logic.return_value.installTorch.assert_called_once()


def test_an_extension_that_does_not_come_is_told(played: Played) -> None:
    played.extensions.installExtensionFromServer.return_value = False
    played.install(EXTENSION)
    assert "could not be installed" in played.told[0]
    played.extensions.installExtensionFromServer.side_effect = RuntimeError("no server\nmore")
    played.install(EXTENSION)
    assert played.told[1].startswith("Installing the PyTorch extension failed (no server).")
