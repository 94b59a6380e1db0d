"""The state of a training that was interrupted."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.methods.method import Steps

_VERSION = 1


@dataclass
class TrainingState:
    """All that a training carries from step to step, besides model and optimizers.

    Attributes:
        identity: method, settings, adaptation, samples and starting model; a training goes on only
            with the same.
        step: steps made.
        smoothed, lowest: the watched loss, smoothed, now and at its best.
        best_step: the step of `lowest`.
        averaged, best: learned weights, averaged up to now and as they were at `best_step`.
        history: see `TrainingResult`.
    """

    identity: dict[str, Any]
    step: int = 0
    smoothed: float = math.inf
    lowest: float = math.inf
    best_step: int = 0
    averaged: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    learned: dict[str, Tensor] = field(default_factory=dict)
    optimizers: dict[str, Any] = field(default_factory=dict)

    def restore(self, model: AdaptedModel, method: Steps) -> None:
        """Give model and optimizers what they had."""
        model.load_learned_state(self.learned)
        for name, optimizer in method.optimizers().items():
            optimizer.load_state_dict(self.optimizers[name])
        for tensors in (self.averaged, self.best):
            tensors.update({n: t.to(model.position.device) for n, t in tensors.items()})


def save_state(path: Path, state: TrainingState, model: AdaptedModel, method: Steps) -> None:
    """Write the state whole or not at all; `SAMAutoSegError` if it cannot be written."""
    state.learned = model.learned_state()
    state.optimizers = {n: o.state_dict() for n, o in method.optimizers().items()}
    # A stream, because torch derives a name from a path, and cannot from one without a suffix.
    with replace_when_complete(path) as temporary, temporary.open("wb") as stream:
        torch.save({"version": _VERSION, **vars(state)}, stream)


def load_state(path: Path, identity: dict[str, Any]) -> TrainingState:
    """Read a state for a training of this identity.

    Raises:
        SAMAutoSegError: there is none, it is damaged, or belongs to another training.
    """
    if not path.exists():
        raise SAMAutoSegError(f"nothing to resume: {path} does not exist: start anew")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is told in one error
            values = torch.load(path, map_location="cpu", weights_only=True)
        if values.pop("version") != _VERSION:
            raise SAMAutoSegError(f"{path} was written by another version: start anew")
        state = TrainingState(**values)
    except SAMAutoSegError:
        raise
    except Exception as error:  # torch names no common type for damaged files
        raise SAMAutoSegError(
            f"{path} is damaged and cannot be resumed: remove it and start anew"
        ) from error
    for name, value in identity.items():
        if state.identity.get(name) != value:
            raise SAMAutoSegError(
                f"{path} belongs to a training with other {name}: go on with what it was "
                "interrupted in, or start anew"
            )
    return state
