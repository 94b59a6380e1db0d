"""Runs a training method: progress, early stop, the best so far, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.methods.checkpoint import TrainingState, load_state, save_state
from SAMAutoSegLib.methods.method import AGREEMENT, Guarded, Method, Steps
from SAMAutoSegLib.methods.pixel_training import WithPixelBranch
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.progress import Progress, silent

History = list[dict[str, float]]
OnStep = Callable[[dict[str, float]], None]

# The watched loss jumps from batch to batch: it is smoothed over about ten steps.
_SMOOTHING = 0.9

# A lower loss has to be lower by this share to count, or noise would postpone every stop.
_LEAST_GAIN = 1e-3

_SECONDS_BETWEEN_CHECKPOINTS = 15.0


class Samples(Protocol):
    """What a method learns from."""

    def fingerprint(self) -> str:
        """Tells whether a training can go on with them."""
        ...


@dataclass
class TrainingResult:
    """What a training gave; the model holds the best weights.

    Attributes:
        history: an entry for every step, with `step`, the losses, and now and then a score.
        steps: how many steps were made.
        best_step: the one that the kept weights come from.
        seconds: spent in this run (not in one that it resumed).
        scoring_seconds: of them, on scores.
        stopped: why it ended before the last step: 'cancelled', 'no more gain', 'the loss is no
            number any more', what a method with a `stop_reason` says, or ''.
        notes: what the user should know, one sentence each.
    """

    history: History = field(default_factory=list)
    steps: int = 0
    best_step: int = 0
    seconds: float = 0.0
    scoring_seconds: float = 0.0
    stopped: str = ""
    notes: list[str] = field(default_factory=list)


def train(
    method_type: type[Method],
    model: AdaptedModel,
    samples: Samples,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    score: Callable[[AdaptedModel], dict[str, float]] | None = None,
    score_every: int = 25,
    on_step: OnStep | None = None,
    progress: Progress = silent,
) -> TrainingResult:
    """Train `model` in place and leave the best weights in it.

    The best weights are those of the lowest smoothed loss that the method watches; with
    `settings.average` their running average. Held-out scores are recorded, never used to choose.

    Args:
        method_type: an entry of the registry.
        checkpoint: file that the state is written to from time to time and when cancelled; it is
            removed at the end. A note says so if it cannot be written.
        resume: go on from that file, to the same result as if there had been no interruption.
        score: told the averaged model every `score_every` steps and at the end; its values (names
            with "dice") go into the history.
        on_step: told every entry of the history as it is made.
        progress: told after every step; a `Cancelled` it raises ends the training, and the best
            so far is kept.

    Raises:
        SAMAutoSegError: `resume` without a usable checkpoint, or a loss that is no number from
            the start.
    """
    started = saved = time.monotonic()
    method: Steps = method_type(model, samples, settings)
    if model.pixels is not None and settings.pixel_steps and isinstance(samples, TrainingSet):
        method = WithPixelBranch(method, model, samples, settings)
    result = TrainingResult(notes=method.notes())
    identity = {
        "method": method_type.name,
        "settings": settings.to_json(),
        "adaptation": model.adaptation.to_json(),
        "samples": samples.fingerprint(),
    }
    state = TrainingState(identity=identity)
    if resume and checkpoint is not None:
        state = load_state(checkpoint, identity)
        state.restore(model, method)
    model.train()
    step = state.step
    while step < settings.steps:
        losses = method.step(step)
        watched = next(iter(losses.values()))
        if not math.isfinite(watched):
            if not state.best:
                raise SAMAutoSegError(
                    "the loss is no number: lower the setting learning_rate, or look for extreme "
                    "values in the images"
                )
            result.stopped = "the loss is no number any more"
            break
        step += 1
        entry = {"step": float(step), **losses}
        _watch(state, watched)
        _average(state, model, settings.average)
        due = score is not None and (step % score_every == 0 or step == settings.steps)
        if due and score is not None:
            before = time.monotonic()
            entry |= _scored(model, state.averaged, score)
            result.scoring_seconds += time.monotonic() - before
        state.history.append(entry)
        if on_step is not None:
            on_step(entry)
        state.step = step
        if state.smoothed < state.lowest * (1 - _LEAST_GAIN):
            state.lowest, state.best_step = state.smoothed, step
            state.best = {name: value.clone() for name, value in state.averaged.items()}
        if settings.patience and step - state.best_step >= settings.patience:
            result.stopped = "no more gain"
            break
        if isinstance(method, Guarded) and (reason := method.stop_reason(state.history)):
            result.stopped = reason
            break
        try:
            progress(step / settings.steps, _line(step, settings.steps, state.smoothed, entry))
        except Cancelled:
            result.stopped = "cancelled"
            break
        if checkpoint is not None and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
            _keep(checkpoint, state, model, method, result)
            saved = time.monotonic()
    if checkpoint is not None:
        if result.stopped == "cancelled":
            _keep(checkpoint, state, model, method, result)
        else:
            checkpoint.unlink(missing_ok=True)
    if state.best:
        model.load_learned_state(state.best)
    model.eval()
    if isinstance(method, Guarded):
        result.notes += method.concluded(model)
    result.history = state.history
    result.steps, result.best_step = state.step, state.best_step
    result.seconds = time.monotonic() - started
    return result


def _keep(
    path: Path, state: TrainingState, model: AdaptedModel, method: Steps, result: TrainingResult
) -> None:
    """Write a checkpoint; a full disk costs the chance to resume, not what was learned."""
    try:
        save_state(path, state, model, method)
    except SAMAutoSegError as error:
        note = f"the training could not be kept for --resume: {error}"
        if note not in result.notes:
            result.notes.append(note)


def _watch(state: TrainingState, loss: float) -> None:
    before = state.smoothed
    state.smoothed = loss if math.isinf(before) else _SMOOTHING * before + (1 - _SMOOTHING) * loss


def _average(state: TrainingState, model: AdaptedModel, decay: float) -> None:
    """Exponential average; its memory grows with the steps, so that the start does not linger."""
    learned = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    if not state.averaged:
        state.averaged = {name: value.clone() for name, value in learned.items()}
        return
    decay = min(decay, (1 + state.step) / (10 + state.step))
    for name, value in learned.items():
        state.averaged[name].lerp_(value, 1 - decay)


def _scored(
    model: AdaptedModel, averaged: dict[str, Tensor], score: Callable[[AdaptedModel], dict]
) -> dict[str, float]:
    trained = model.learned_state()
    model.load_learned_state(averaged)
    model.eval()
    try:
        with torch.inference_mode():
            return score(model)
    finally:
        model.load_learned_state(trained)
        model.train()


def _line(step: int, steps: int, loss: float, entry: dict[str, float]) -> str:
    held = f", agreement with the source {entry[AGREEMENT]:.2f}" if AGREEMENT in entry else ""
    return f"training: step {step} of {steps}, loss {loss:.3f}{held}"
