"""Runs a training method: progress, early stop, the best so far, checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save
from torch import Tensor

from SAMAutoSegLib import __version__
from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.methods.method import AGREEMENT, Guarded, Method, Steps, is_finite
from SAMAutoSegLib.methods.pixel_training import WithPixelBranch
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.methods.training_state import TrainingState, load_state, save_state
from SAMAutoSegLib.progress import Progress, silent

History = list[dict[str, float]]
OnStep = Callable[[dict[str, float]], None]

# The watched loss jumps from batch to batch: it is smoothed over about ten steps.
_SMOOTHING = 0.9

# In fewer steps the smoothed loss tells nothing, however short the training.
_LEAST_PATIENCE = 30

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
        score: of the model that is left, by `score` of `train`; empty without one.
    """

    history: History = field(default_factory=list)
    steps: int = 0
    best_step: int = 0
    seconds: float = 0.0
    scoring_seconds: float = 0.0
    stopped: str = ""
    notes: list[str] = field(default_factory=list)
    score: dict[str, float] = field(default_factory=dict)


def train(
    method_type: type[Method],
    model: AdaptedModel,
    samples: Samples,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    settle: int = 0,
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
        checkpoint: file that the state is written to from time to time and at the end; whoever has
            saved the model removes it. A note says so if it cannot be written.
        resume: go on from that file, to the same result as if there had been no interruption;
            nothing is left to do where the training had ended.
        settle: in so many steps from the start the latest weights count as the best. A model that
            goes on begins with a loss that depends on which slices come first, as it knows some of
            them: the lowest may be the first, and nothing would have been learned.
        score: told the averaged model every `score_every` steps and at the last; its values (names
            with "dice") go into the history. At the very end told the model that is left.
        on_step: told every entry of the history as it is made.
        progress: told after every step; a `Cancelled` it raises ends the training, and the best
            so far is kept.

    Raises:
        SAMAutoSegError: `resume` without a usable checkpoint, or a loss that is no number from
            the start.
    """
    started = saved = time.monotonic()
    method: Steps = method_type(model, samples, settings)
    guard = method if isinstance(method, Guarded) else None
    if model.pixels is not None and settings.pixel_steps and isinstance(samples, TrainingSet):
        method = WithPixelBranch(method, model, samples, settings)
    state = TrainingState(identity={})
    if checkpoint is not None:
        state.identity |= {
            "program": __version__,
            "method": method_type.name,
            "settings": settings.to_json(),
            "adaptation": model.adaptation.to_json(),
            "samples": samples.fingerprint(),
            "starting model": _fingerprint(model),
        }
        if resume:
            state = load_state(checkpoint, state.identity)
            state.restore(model, method)
    result = TrainingResult(notes=method.notes())
    run = _Run(model, method, guard, settings, settle, state, result)
    model.train()
    if state.step:
        result.stopped = run.why_stop()  # it may have ended before it was interrupted
    while state.step < settings.steps and not result.stopped:
        entry = run.step()
        if entry is None:
            break
        due = state.step % score_every == 0 or state.step == settings.steps
        if score is not None and due:
            entry |= run.scored(score)
        state.history.append(entry)
        if on_step is not None:
            on_step(entry)
        run.keep_best()
        result.stopped = run.why_stop()
        if result.stopped:
            break
        try:
            told = _line(state.step, settings.steps, state.smoothed, entry)
            progress(state.step / settings.steps, told)
        except Cancelled:
            result.stopped = "cancelled"
        if checkpoint is not None and time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
            run.write(checkpoint)
            saved = time.monotonic()
    if checkpoint is not None and state.step:
        run.write(checkpoint)  # what comes next may fail, or take long
    run.conclude()
    if score is not None and state.step:
        # Of the weights that are left, which need not be those of the last step.
        result.scoring_seconds += score_left(model, score, result)
    result.seconds = time.monotonic() - started
    return result


def score_left(
    model: AdaptedModel, score: Callable[[AdaptedModel], dict[str, float]], result: TrainingResult
) -> float:
    """Put the score of the model that is left into the result; the seconds that it took."""
    before = time.monotonic()
    with torch.inference_mode():
        result.score = score(model)
    return time.monotonic() - before


@dataclass
class _Run:
    """One training at work."""

    model: AdaptedModel
    method: Steps
    guard: Guarded | None
    settings: Settings
    settle: int
    state: TrainingState
    result: TrainingResult

    def step(self) -> dict[str, float] | None:
        """Make one; its entry of the history. None if there is no number to go on with.

        Raises:
            SAMAutoSegError: it was the first one.
        """
        losses = self.method.step(self.state.step)
        watched = next(iter(losses.values()))
        # A loss is of the weights before the step; its gradient may be no number where it is one.
        if not (math.isfinite(watched) and is_finite(self.model)):
            if not self.state.best:
                raise SAMAutoSegError(
                    "the loss or its gradient is no number: lower the setting learning_rate, or "
                    "look for extreme values in the images"
                )
            self.result.stopped = "the loss is no number any more"
            return None
        _watch(self.state, watched)
        _average(self.state, self.model, self.settings.average)
        self.state.step += 1
        return {"step": float(self.state.step), **losses}

    def scored(self, score: Callable[[AdaptedModel], dict[str, float]]) -> dict[str, float]:
        """The score of the averaged model."""
        before = time.monotonic()
        found = _scored(self.model, self.state.averaged, score)
        self.result.scoring_seconds += time.monotonic() - before
        return found

    def keep_best(self) -> None:
        """Keep the averaged weights if the watched loss was never as low."""
        state = self.state
        settling = state.step <= self.settle
        if settling or state.smoothed < state.lowest * (1 - _LEAST_GAIN):
            state.lowest, state.best_step = state.smoothed, state.step
            state.best = {name: value.clone() for name, value in state.averaged.items()}

    def why_stop(self) -> str:
        """Why to stop before the last step; empty to go on."""
        share = self.settings.patience
        patience = max(_LEAST_PATIENCE, round(share * self.settings.steps))
        if share and self.state.step - self.state.best_step >= patience:
            return "no more gain"
        if self.guard is not None:
            return self.guard.stop_reason(self.state.history)
        return ""

    def write(self, checkpoint: Path) -> None:
        """Write a checkpoint; a full disk costs the chance to resume, not what was learned."""
        try:
            save_state(checkpoint, self.state, self.model, self.method)
        except SAMAutoSegError as error:
            note = f"the training could not be kept to be gone on with: {error}"
            if note not in self.result.notes:
                self.result.notes.append(note)

    def conclude(self) -> None:
        """Put the best weights into the model, and what happened into the result."""
        state, result = self.state, self.result
        if state.best:
            self.model.load_learned_state(state.best)
        self.model.eval()
        if self.guard is not None:
            result.notes += self.guard.concluded(self.model)
        result.history = state.history
        result.steps, result.best_step = state.step, state.best_step


def _fingerprint(model: AdaptedModel) -> str:
    """SHA-256 of what is learned, as it was before the first step."""
    return hashlib.sha256(save(model.learned_state())).hexdigest()


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
