"""``python -m SAMAutoSegLib.engine.job_process FOLDER``: works on one training job, see `jobs`."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SAMAutoSegLib.engine.explain import explain
from SAMAutoSegLib.engine.jobs import (
    CHECKPOINT,
    LOCK,
    MODEL,
    STOP,
    append_event,
    read_spec,
)
from SAMAutoSegLib.engine.lock import FileLock
from SAMAutoSegLib.engine.time_left import TimeLeft
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.threads import let_waiting_threads_sleep

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.slices import Axis, Plane
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.methods.training_set import LabeledVolume
    from SAMAutoSegLib.methods.tuned_model import FineTuned
    from SAMAutoSegLib.sam.backbone import Backbone
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache

_SECONDS_BETWEEN_PROGRESS = 0.2

# Somebody who asks whether the job is at work holds the lock for a moment.
_SECONDS_TO_LOCK = 2.0

# Takes slices without contours, see `adapt_source`.
_WITHOUT_LABELS = "we-sam"

_BLO_SAM = "blo-sam"

_FAILED = 1
_ALREADY_RUNNING = 3


def main(arguments: Sequence[str]) -> int:
    """Work on the job of a folder.

    Returns:
        0 when it is finished or was stopped, 1 when it failed (the events say why), 3 when another
        process works on it.
    """
    let_waiting_threads_sleep()
    folder = Path(arguments[0])
    lock = FileLock(folder / LOCK)
    try:
        if not _acquired(lock):
            print(f"another process works on {folder}: wait for it, or stop it", file=sys.stderr)
            return _ALREADY_RUNNING
        return _work(folder)
    except SAMAutoSegError as error:  # not even an event could be written
        print(error, file=sys.stderr)
        return _FAILED
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    deadline = time.monotonic() + _SECONDS_TO_LOCK
    while not lock.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _work(folder: Path) -> int:
    resumed = (folder / CHECKPOINT).exists()
    for cut_off in folder.glob(".partial-*"):  # of a process that was killed while it wrote
        cut_off.unlink()
    append_event(folder, "started", pid=os.getpid(), host=socket.gethostname(), resumed=resumed)
    try:
        spec = read_spec(folder)
        event, fields = _trained(folder, spec, resumed)
    except Cancelled as error:
        event, fields = "stopped", {**_NOTHING, "notes": [str(error)]}
    except Exception as error:
        message, details = explain(error)
        print(details, file=sys.stderr)
        append_event(folder, "failed", message=message, details=details)
        return _FAILED
    append_event(folder, event, **fields)
    return 0


_NOTHING: dict[str, Any] = {
    "model": None,
    "before": None,
    "after": None,
    "notes": [],
    "steps": 0,
    "best_step": 0,
    "seconds": 0.0,
}


@dataclass
class _Task:
    """What a job's specification stands for.

    Attributes:
        former: the model that is refined.
        notes: what to tell of the slices that were to be held out.
    """

    structures: list[Structure]
    backbone: Backbone
    former: Adapted | None
    volumes: list[LabeledVolume]
    held_out: list[LabeledVolume]
    notes: list[str]
    plane: Plane
    intensity: Intensity | None
    cache: EmbeddingCache


def _trained(folder: Path, spec: dict[str, Any], resumed: bool) -> tuple[str, dict[str, Any]]:
    """Train, score and save; the event that tells so."""
    from SAMAutoSegLib.adapt.adapted_file import save_adapted
    from SAMAutoSegLib.engine.machine import leave_a_core

    started = time.monotonic()
    leave_a_core()
    _lower_priority()
    progress = _Progress(folder, resumed)
    progress(0.0, "loading the model")
    task = _task(folder, spec)
    before = after = None
    if task.former is not None and task.held_out:
        progress(0.0, "scoring the model as it was")
        before = _dice(task, task.former)
    method = spec.get("method") or _BLO_SAM
    learn = _learned_without_labels if method == _WITHOUT_LABELS else _learned
    options = {
        "intensity": task.intensity or (task.former.card.intensity if task.former else None),
        "held_out": task.held_out,
        "cache": task.cache,
        "checkpoint": folder / CHECKPOINT,
        "resume": resumed,
        "on_step": progress.on_step,
        "progress": progress,
    }
    tuned = learn(task, spec, method, options)
    notes = [*task.notes, *tuned.result.notes]
    if task.former is not None and tuned.adapted.model is task.former.model:
        # Nothing to keep: a version that is the same as the one before would only puzzle.
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return "finished", {
            **_NOTHING,
            "unchanged": True,
            "notes": notes,
            "steps": tuned.result.steps,
            "seconds": round(time.monotonic() - started, 1),
        }
    save_adapted(folder / MODEL, tuned.adapted)
    if tuned.result.stopped != "cancelled":
        (folder / CHECKPOINT).unlink(missing_ok=True)
    if task.held_out:
        dice = tuned.adapted.card.provenance["held_out_dice_by_structure"]
        after = {structure.name: dice.get(structure.name) for structure in task.structures}
    scored = task.held_out or method != _WITHOUT_LABELS  # rough paint could not give a score
    if scored and sum(len(volume.slices) for volume in task.held_out) < 2:
        held = "one slice gives" if task.held_out else "no slice gives"
        notes.append(f"{held} a score: too few for one that can be relied on")
    return "stopped" if tuned.result.stopped == "cancelled" else "finished", {
        "model": str(folder / MODEL),
        "before": before,
        "after": after,
        "notes": notes,
        "steps": tuned.result.steps,
        "best_step": tuned.result.best_step,
        "seconds": round(time.monotonic() - started, 1),
    }


def _task(folder: Path, spec: dict[str, Any]) -> _Task:
    from SAMAutoSegLib.adapt.adapted_file import load_adapted
    from SAMAutoSegLib.device import choose_device
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.slices import plane_along
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.methods.held_out import unseen
    from SAMAutoSegLib.sam.checkpoint import load_backbone
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache

    structures = [Structure.from_json(values) for values in spec["structures"]]
    device = choose_device(spec.get("device") or "auto")
    former: Adapted | None = None
    if spec.get("base_model"):
        former = load_adapted(spec["base_model"], base=spec["backbone"], device=device)
        backbone = former.backbone
        structures = _in_order_of(former.card, structures)
    else:
        backbone = load_backbone(spec["backbone"], side=spec.get("side"), device=device)
    volumes = _volumes(folder, spec, "slices")
    axis: Axis = spec.get("plane") or (former.card.plane if former else "auto")
    plane = plane_along(volumes[0].image.grid, axis)
    known = former.card if former else None
    held_out, notes = unseen(_volumes(folder, spec, "held_out"), known, plane)
    intensity = Intensity.parse(spec["intensity"]) if spec.get("intensity") else None
    return _Task(
        structures,
        backbone,
        former,
        volumes,
        held_out,
        notes,
        plane,
        intensity,
        EmbeddingCache(),
    )


def _learned(task: _Task, spec: dict[str, Any], method: str, options: dict[str, Any]) -> FineTuned:
    """By a method that learns from labeled slices."""
    from SAMAutoSegLib.methods.finetune import finetune

    return finetune(
        task.volumes,
        task.structures,
        task.backbone,
        plane=task.plane,
        method=method,
        settings={"budget": spec.get("budget") or "standard"} | (spec.get("settings") or {}),
        adaptation=spec.get("adaptation"),
        start=_gone_on_from(task, method),
        **options,
    )


def _gone_on_from(task: _Task, method: str) -> Adapted | None:
    """The former model, unless it knows nothing that is not there anyway.

    With several volumes to begin anew is as fast and no worse, see
    docs/benchmarks/next-patient.md: the net beside the SAM learns from their other slices then.
    """
    from SAMAutoSegLib.methods.tuned_model import knows_other_slices

    former = task.former
    if former is None or len(task.volumes) < 2 or not method == former.card.method == _BLO_SAM:
        return former
    return former if knows_other_slices(former.card, task.volumes, task.plane) else None


def _learned_without_labels(
    task: _Task, spec: dict[str, Any], method: str, options: dict[str, Any]
) -> FineTuned:
    """By a method that adapts a model to slices without contours; those of `slices`."""
    from SAMAutoSegLib.images.slices import SliceStack
    from SAMAutoSegLib.images.weak_label_files import read_weak_labels
    from SAMAutoSegLib.images.weak_labels import WeakLabels, rough_paint
    from SAMAutoSegLib.methods.adapt_source import adapt_source
    from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume

    former = task.former
    if (
        former is None
        or _names(former.card.structures) != _names(task.structures)
        or task.plane != former.card.plane
    ):
        raise SAMAutoSegError(
            f"{method} adapts a model to other images, for the structures and slices that it "
            "knows: choose such a model, its structures and its slice direction"
        )
    volumes, notes = [], []
    facts = [facts for facts in spec["volumes"] if facts.get("slices")]
    for volume, described in zip(task.volumes, facts, strict=True):
        weak = WeakLabels(task.plane)
        if described.get("weak"):
            paths = [Path(path) for path in described["weak"]]
            weak, told = read_weak_labels(paths, volume.image, task.plane, task.structures)
            notes += told
        if described.get("rough"):
            stack = SliceStack(volume.labels.array, volume.image.grid, task.plane)
            values = {structure.label: structure.label for structure in task.structures}
            weak = weak.joined(rough_paint(stack, values, described["rough"]))
        volumes.append(UnlabeledVolume(volume.image, volume.slices, weak))
    tuned = adapt_source(
        volumes,
        # With the label values that this job's arrays have.
        replace(former, card=replace(former.card, structures=tuple(task.structures))),
        settings=spec.get("settings"),
        **options,
    )
    tuned.result.notes[:0] = notes
    return tuned


class _Progress:
    """Writes how far the training is, and asks whether it shall stop."""

    def __init__(
        self, folder: Path, resumed: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        # What was learned before comes with the first step: stopped then, it is kept.
        self._can_stop = not resumed
        self._steps = False
        self._clock = clock
        self._time_left = TimeLeft(clock)
        self._told = -_SECONDS_BETWEEN_PROGRESS

    def __call__(self, fraction: float, message: str) -> None:
        if self._can_stop and (self._folder / STOP).exists():
            raise Cancelled("stopped before the first step: nothing was learned yet")
        left = self._time_left.at(fraction)
        now = self._clock()
        if now - self._told >= _SECONDS_BETWEEN_PROGRESS or fraction >= 1.0:
            self._told = now
            self._tell(fraction, message, left)

    def on_step(self, entry: dict[str, float]) -> None:
        if not self._steps:
            # A resumed training begins in the middle, which says nothing of its pace.
            self._steps, self._can_stop, self._time_left = True, True, TimeLeft(self._clock)
        step = int(entry["step"])
        values = {name: round(value, 5) for name, value in entry.items() if name != "step"}
        scores = {name: values.pop(name) for name in list(values) if name.startswith("held_out")}
        append_event(self._folder, "loss", step=step, **values)
        if scores:
            append_event(self._folder, "score", step=step, **scores)

    def _tell(self, fraction: float, message: str, left: float | None) -> None:
        append_event(
            self._folder,
            "progress",
            fraction=round(fraction, 4),
            message=message,
            seconds_left=left,
        )


def _volumes(folder: Path, spec: dict[str, Any], which: str) -> list[LabeledVolume]:
    """The volumes with the slices to learn from ("slices") or the "held_out" ones, if any."""
    import numpy as np

    from SAMAutoSegLib.engine.volumes import as_volume
    from SAMAutoSegLib.methods.training_set import LabeledVolume

    found = []
    for facts in spec["volumes"]:
        if not facts.get(which):
            continue
        # One that names its place tells apart volumes of the same name.
        image, labels = (
            np.load(folder / f"{facts[part]}.npy", mmap_mode="r", allow_pickle=False)
            for part in ("image", "labels")
        )
        scan = replace(as_volume(facts, image), source=folder / f"{facts['image']}.npy")
        slices = tuple(sorted(set(facts[which])))
        found.append(LabeledVolume(scan, as_volume(facts, labels), slices))
    if not found and which == "slices":
        raise SAMAutoSegError("no slice to learn from: correct or mark at least one slice")
    return found


def _in_order_of(card: ModelCard, structures: list[Structure]) -> list[Structure]:
    """The structures as the card has them where they are the same, so that they can go on."""
    order = _names(card.structures)
    if sorted(order) != sorted(_names(structures)):
        return structures
    return sorted(structures, key=lambda structure: order.index(structure.name.casefold()))


def _names(structures: Sequence[Structure]) -> list[str]:
    return [structure.name.casefold() for structure in structures]


def _dice(task: _Task, former: Adapted) -> dict[str, float | None]:
    """Dice of every structure over the voxels of all held-out slices."""
    from SAMAutoSegLib.images.slices import SliceStack
    from SAMAutoSegLib.images.structure import matched
    from SAMAutoSegLib.segment.volume import segment_volume

    sums = {structure.name: [0, 0] for structure in task.structures}
    pairs = [(s, other) for s, other in matched(task.structures, former.card.structures) if other]
    for volume in task.held_out:
        result = segment_volume(
            volume.image,
            former,
            axis=task.plane,
            slices=volume.slices,
            cache=task.cache,
        )
        predicted = SliceStack(result.labels, volume.image.grid, task.plane)
        expected = SliceStack(volume.labels.array, volume.image.grid, task.plane)
        for number in volume.slices:
            for structure, other in pairs:
                a = predicted.slice_at(number) == other.label
                b = expected.slice_at(number) == structure.label
                sums[structure.name][0] += 2 * int((a & b).sum())
                sums[structure.name][1] += int(a.sum()) + int(b.sum())
    return {name: round(both / all, 4) if all else None for name, (both, all) in sums.items()}


def _lower_priority() -> None:
    """Let the user's own programs go first, where the system has such a thing."""
    if hasattr(os, "nice"):
        os.nice(5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
