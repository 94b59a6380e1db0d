"""What the panels share: the engine, the models, and what was found on this computer."""

from collections import deque

from SAMAutoSegLib.engine.client import EngineClient
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.Backbones import Backbones
from SAMAutoSegPanels.EngineVolumes import EngineVolumes
from SAMAutoSegPanels.Signal import Signal
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import asSentence


class Session:
    """One for each module widget; it holds no Qt object.

    Args:
        library: a `ModelLibrary`.
        dependencies: finds and installs packages.
        commands: a `LibraryCommands`.
        makeTransport: makes a transport of the engine's process.
        later: calls a function once the event loop has drawn and answered.

    Attributes:
        changed: emitted when anything here, or the choice of volume or model, has changed.
        found: what the set-up needs to know, see `SetUpFacts`.
        ready: the engine can be started.
        secondsForVolume: that all slices of the volume take with the model; None if unknown.
        shareOfSlices: of the volume, that the options leave to be segmented.
        device: that is asked for: '' takes the fastest.
        chosenDevice: that the engine has found to be the fastest.
        parameterNode: the wrapped one of the scene; None while the scene is closed.
    """

    def __init__(self, library, dependencies, commands, makeTransport, later):
        self.library = library
        self.dependencies = dependencies
        self.commands = commands
        self.later = later
        self.changed = Signal()
        self.found = {}
        self.ready = False
        self.devices = []
        self.chosenDevice = ""
        self.device = ""
        self.secondsForVolume = None
        self.shareOfSlices = 1.0
        self.engineMessage = ""
        self.log = deque(maxlen=200)
        self.parameterNode = None
        self.client = EngineClient(makeTransport, self._onState, self.log.append)
        self.volumes = EngineVolumes(self.client, later)
        self._backbones = Backbones(library, later, self.changed.emit)

    @property
    def model(self):
        """The chosen model, None where none is chosen or its file is gone."""
        if self.parameterNode is None:
            return None
        return self.library.find(self.parameterNode.model)

    @property
    def modelProblem(self):
        """Why there is no model although one was chosen, '' where there is or none was."""
        asked = "" if self.parameterNode is None else self.parameterNode.model
        if not asked or self.model is not None:
            return ""
        text = _("{name} is not on this computer. Choose another model, or load its file.")
        return text.format(name=asked)

    def chooseModel(self, entry):
        """Choose a model for the scene; None for none. Nothing is chosen while it is closed."""
        self.secondsForVolume = None
        if self.parameterNode is not None:
            self.parameterNode.model = "" if entry is None else entry.path.name
        self.changed.emit()

    def chooseDevice(self, name):
        self.device = name
        self.secondsForVolume = None
        self.changed.emit()

    def startEngine(self):
        """Start the engine where it does not run yet; does not wait."""
        if not self.ready or self.client.state in ("starting", "ready", "busy"):
            return
        try:
            self.client.start()
        except SAMAutoSegError as error:
            self.engineMessage = str(error)
            self.changed.emit()
            return
        self.client.send("devices", {}, on_result=self._onDevices)

    def restartEngine(self):
        self.volumes.forget()
        self.client.stop()
        self.startEngine()

    def stop(self):
        """End the processes; the session can be used again."""
        self.commands.stop()
        self.volumes.forget()
        self.client.stop()

    def backboneFile(self):
        """File of the SAM that clicks are answered by and that a training starts from; or None.

        It is the chosen model itself if that is a plain SAM, else the one it was learned on.
        """
        return self._backbones.fileOf(self.model)

    @property
    def backboneProblem(self):
        """Why the SAM of the chosen model cannot be used, '' if it can."""
        return self._backbones.problemOf(self.model)

    @property
    def loading(self):
        """What a request that loads the chosen model says besides its file."""
        base = self._backbones.baseOf(self.model)
        return {"base": None if base is None else str(base), "device": self.device or None}

    def clickFile(self):
        """File of the model that answers clicks; or None.

        That is the chosen one also where it was learned: its SAM is loaded already, and has
        encoded the slices with the same gray levels.
        """
        backbone, entry = self.backboneFile(), self.model
        return entry.path if backbone and entry is not None and entry.structures else backbone

    def _onDevices(self, result):
        self.devices, self.chosenDevice = result["devices"], result["chosen"]
        self.changed.emit()

    def _onState(self, state, message):
        self.engineMessage = asSentence(message)
        if message:
            self.log.append(f"{state}: {message}")
        self.changed.emit()
