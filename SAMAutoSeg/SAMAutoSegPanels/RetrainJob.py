"""A training as the panel sees it: made from corrected slices, watched, kept or discarded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from SAMAutoSegLib.engine.jobs import TrainingJob, list_jobs, remove_abandoned
from SAMAutoSegLib.engine.volumes import facts_of
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegPanels.RetrainState import (
    FINISHED,
    IDLE,
    RUNNING,
    STOPPING,
    scoreRows,
    verdict,
)
from SAMAutoSegPanels.TrainingCurve import TrainingCurve
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import asSentence, listWords, withNotes


class WatchedJob:
    """What is known of a job so far; `poll` brings it up to date.

    Attributes:
        job: a `TrainingJob`.
        state: see `RetrainState`.
        message: what it ended with.
    """

    def __init__(self, job):
        self.job = job
        self.state = RUNNING
        self.fraction = 0.0
        self.secondsLeft = None
        self.curve = TrainingCurve()
        self.rows = []
        self.message = ""
        self.failed = False
        self.lost = False
        self._seen = 0

    @property
    def name(self):
        """The name that the model is to be kept under."""
        return self.job.spec.get("model_name", "")

    @property
    def finished(self):
        return self.state in (FINISHED, IDLE)

    def poll(self):
        """Read what has happened since; True if anything has."""
        state = self.job.state
        new = self.job.events(self._seen)
        self._seen += len(new)
        for event in new:
            if event["event"] == "launched":
                self.curve = TrainingCurve()
            elif event["event"] == "progress":
                self.fraction, self.secondsLeft = event["fraction"], event["seconds_left"]
            else:
                self.curve.add(event)
        before = self.state
        if state in ("finished", "stopped", "failed"):
            self._end(self.job.result)
        elif state == "lost":
            self.state, self.lost, self.failed = IDLE, True, True
            self.message = _("The training was interrupted; it can go on where it was.")
        return bool(new) or self.state != before

    def stop(self):
        """Ask for the best so far."""
        self.state = STOPPING
        self.job.stop()

    def _end(self, result):
        if result["event"] == "failed":
            self.state, self.failed, self.lost = IDLE, True, self.job.can_resume
            self.message = asSentence(result["message"])
            return
        notes = [*self.job.spec.get("notes", []), *result.get("notes", [])]
        if result.get("model") is None:
            self.state = IDLE
            self.message = _("Stopped before anything was learned.")
            if result.get("unchanged"):
                self.message = withNotes(_("The model stays as it is."), notes)
            return
        self.state = FINISHED
        self.rows = scoreRows(result.get("before") or {}, result.get("after") or {})
        if result["event"] == "stopped":
            notes.insert(0, _("stopped after {count} steps").format(count=result["steps"]))
        roughly = any(volume.get("rough") for volume in self.job.spec.get("volumes", []))
        self.message = verdict(self.rows, notes, roughly)


def describeJob(job):
    """One line about a job that an earlier run of Slicer has left."""
    state = job.state
    names = listWords(structure["name"] for structure in job.spec["structures"])
    when = ""
    events = job.events()
    if events:
        when = datetime.fromtimestamp(events[0]["time"]).strftime("%Y-%m-%d %H:%M")
    words = {
        "waiting": _("is starting"),
        "running": _("is running"),
        "finished": _("has finished"),
        "stopped": _("was stopped, with a model"),
        "failed": _("failed"),
        "lost": _("was interrupted"),
    }
    return _("The training of {names} from {when} {state}.").format(
        names=names, when=when, state=words[state]
    )


def unfinishedBusiness(root):
    """Jobs in a folder that somebody has still to decide about, the newest first.

    What failed before its first step, learned nothing or was never written to its end is removed:
    there is nothing to decide.
    """
    remove_abandoned(root)
    found = []
    for job in list_jobs(root):
        ended = job.state in ("failed", "stopped", "finished") and not job.can_resume
        if ended and not (job.result or {}).get("model"):
            job.remove()
        else:
            found.append(job)
    return found


@dataclass(frozen=True)
class JobVolume:
    """What a job learns from in one volume.

    Attributes:
        corrected: a `CorrectedSlices`.
        train, heldOut: slice numbers.
        rough: those of ``train`` whose labels are rough paint; for WeSAM.
    """

    corrected: Any
    train: Sequence[int]
    heldOut: Sequence[int] = ()
    rough: Sequence[int] = ()


def makeJobInSteps(folder, volumes, settings):
    """Write a job, a few megabytes between two steps; the generator returns the job.

    Args:
        folder: of the job, not there yet.
        volumes: functions that return a `JobVolume` each, all with the same structures; each is
            called in a step of its own.
        settings: further fields of the specification.

    Raises:
        SAMAutoSegError: the disk is full.
    """
    taken = []
    for read in volumes:
        taken.append(read())
        yield 0.0
    described, arrays, notes = [], {}, []
    for number, volume in enumerate(taken, start=1):
        image, labels = f"image-{number}", f"labels-{number}"
        arrays[image] = volume.corrected.volume.array
        arrays[labels] = volume.corrected.labels
        described.append({**_described(volume), "image": image, "labels": labels})
        name = volume.corrected.volume.name
        told = volume.corrected.notes
        notes += told if len(taken) == 1 else [f"{name}: {note}" for note in told]
    first = taken[0].corrected
    spec = {
        "volumes": described,
        "structures": [structure.to_json() for structure in first.structures],
        "plane": first.plane,
        "notes": notes,
        **settings,
    }
    return (yield from TrainingJob.create_in_steps(folder, spec, arrays))


def _described(volume):
    described = {
        **facts_of(volume.corrected.volume),
        "slices": list(volume.train),
        "held_out": list(volume.heldOut),
    }
    if volume.rough:
        described["rough"] = list(volume.rough)
    return described


def settingsOf(session, node, name, backbone, device):
    """Fields of the specification that follow from the choices in the panel.

    Raises:
        SAMAutoSegError: the model's backbone is not on this computer.
    """
    if backbone is None:
        raise SAMAutoSegError(_("The SAM of this model is not here: download it under Model."))
    settings = {
        "method": node.method.value,
        "budget": node.budget.value,
        "backbone": str(backbone),
        "model_name": name,
    }
    if device:
        settings["device"] = device
    model = session.model
    if model is not None and model.structures:
        settings["base_model"] = str(model.path)
    return settings
