"""What the set-up line says and what its button does, from what was found on this computer."""

from dataclasses import dataclass

from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import durationWords, listWords, sizeWords

EXTENSION = "extension"
RESTART = "restart"
TORCH = "torch"
PACKAGES = "packages"
WEIGHTS = "weights"


@dataclass(frozen=True)
class SetUpFacts:
    """What was found.

    ``torchCannotBe``: there is none for this Slicer; ``restartPending`` is set once the PyTorch
    extension was installed in this run of Slicer; ``busyWith`` names the step being done;
    ``failure`` is why the last step failed.
    """

    hasExtension: bool = False
    hasTorch: bool = False
    torchCannotBe: bool = False
    missingPackages: tuple = ()
    hasWeights: bool = False
    weightsBytes: int = 0
    restartPending: bool = False
    busyWith: str = ""
    failure: str = ""
    engineState: str = "stopped"
    engineMessage: str = ""
    devices: tuple = ()
    chosenDevice: str = ""
    secondsForVolume: float | None = None


@dataclass(frozen=True)
class SetUpView:
    """``level`` is 'ready', 'waiting', 'missing' or 'failed'; an empty ``button`` hides it."""

    level: str
    text: str
    button: str = ""
    toolTip: str = ""


def stepsLeft(facts):
    """What is to be done, in order.

    After the PyTorch extension comes a restart, so nothing behind that is named with it.
    """
    if facts.restartPending:
        return [RESTART]
    if not (facts.hasTorch or facts.hasExtension):
        return [EXTENSION, RESTART]
    steps = [] if facts.hasTorch else [TORCH]
    if facts.missingPackages:
        steps.append(PACKAGES)
    if not facts.hasWeights:
        steps.append(WEIGHTS)
    return steps


def isReady(facts):
    """Whether models can run; weights may also come from a file."""
    return facts.hasTorch and not facts.missingPackages and not facts.restartPending


def setUpView(facts):
    """The line as it stands."""
    if facts.busyWith:
        return SetUpView("waiting", _busyWords(facts.busyWith))
    steps = stepsLeft(facts)
    if facts.torchCannotBe and not facts.hasTorch:
        return SetUpView(
            "failed",
            _(
                "There is no PyTorch 2.4 for this Slicer, which is built for Intel Macs: install a"
                " Slicer for Apple silicon, or use another computer."
            ),
        )
    if facts.failure:
        return SetUpView("failed", facts.failure, _("Try again"), _("Does the rest of the set-up."))
    if steps == [RESTART]:
        text = _("Restart Slicer to go on with the set-up.")
        warning = _("Save your work first: Slicer does not ask.")
        return SetUpView("missing", text, _("Restart"), warning)
    if steps and not (steps == [WEIGHTS] and isReady(facts)):
        text = _("To be set up: {steps}.").format(steps=listWords(map(_stepWords, steps), 5))
        return SetUpView("missing", text, _("Set up..."), question(facts))
    if facts.engineState == "failed":
        return SetUpView("failed", facts.engineMessage, _("Start again"))
    if facts.engineState == "starting":
        return SetUpView("waiting", _("Starting..."))
    if steps == [WEIGHTS]:
        text = _("Ready, but the LiteMedSAM model is missing.")
        return SetUpView("missing", text, _("Download"), question(facts))
    return SetUpView("ready", _readyWords(facts), "", _devicesToolTip(facts))


def question(facts):
    """What is asked, once, before anything is installed."""
    lines = {
        EXTENSION: _("the PyTorch extension of Slicer, then a restart of Slicer"),
        RESTART: "",
        TORCH: _("PyTorch, matching this computer's graphics card (0.2 to 3 GB)"),
        PACKAGES: _("the Python packages {names}").format(
            names=", ".join(facts.missingPackages) or "-"
        ),
        WEIGHTS: _("the LiteMedSAM model ({size}, Apache-2.0)").format(
            size=sizeWords(facts.weightsBytes)
        ),
    }
    items = "\n".join(f"- {lines[step]}" for step in stepsLeft(facts) if lines[step])
    return _("SAMAutoSeg downloads and installs:\n{items}").format(items=items)


def _stepWords(step):
    return {
        EXTENSION: _("PyTorch extension"),
        RESTART: _("restart"),
        TORCH: _("PyTorch"),
        PACKAGES: _("Python packages"),
        WEIGHTS: _("LiteMedSAM model"),
    }[step]


def _busyWords(step):
    return {
        EXTENSION: _("Installing the PyTorch extension..."),
        TORCH: _("Installing PyTorch. This takes some minutes."),
        PACKAGES: _("Installing Python packages..."),
        WEIGHTS: _("Downloading the LiteMedSAM model..."),
    }[step]


def _readyWords(facts):
    device = next((d for d in facts.devices if d["name"] == facts.chosenDevice), None)
    if device is None:
        return _("Ready.")
    if facts.secondsForVolume is not None:
        return _("{device}: {duration} to segment").format(
            device=_deviceWords(device), duration=durationWords(facts.secondsForVolume)
        )
    return _deviceWords(device)


def _deviceWords(device):
    if device["name"] == "cpu" or not device.get("free_bytes"):
        return device["words"]
    return _("{device}, {size} free").format(
        device=device["words"], size=sizeWords(device["free_bytes"])
    )


def _devicesToolTip(facts):
    return "\n".join(_deviceWords(device) for device in facts.devices)
