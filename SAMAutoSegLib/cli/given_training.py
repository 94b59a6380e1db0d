"""What ``samautoseg finetune`` was given of the training itself, with labels or without."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SAMAutoSegLib.errors import SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import Adapted

DEFAULT_BASE = "lite-medsam"

_CHECKPOINT_SUFFIX = ".training"


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of --set, --seed and --budget."""
    settings: dict[str, Any] = {}
    if arguments.budget or arguments.method != "we-sam":
        settings["budget"] = arguments.budget or "standard"
    if arguments.seed is not None:
        settings["seed"] = arguments.seed
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise SAMAutoSegError(f"--set {text}: expected NAME=VALUE")
        try:
            settings[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[name.strip()] = value.strip()
    return settings


def started_from(arguments: argparse.Namespace) -> "Adapted":
    """The model of --start.

    Raises:
        SAMAutoSegError: as `load_adapted`, or --side is given.
    """
    from SAMAutoSegLib.adapt.adapted_file import load_adapted

    if arguments.side is not None:
        raise SAMAutoSegError("--side is that of the model given by --start: leave it out")
    base = None if arguments.base == DEFAULT_BASE else arguments.base
    return load_adapted(arguments.start, base=base, device=arguments.device)


def checkpoint_of(arguments: argparse.Namespace) -> Path:
    """Where an interrupted training is kept."""
    output: Path = arguments.output
    return output.with_name(output.name + _CHECKPOINT_SUFFIX)


def require_checkpoint(arguments: argparse.Namespace) -> None:
    """`SAMAutoSegError` if --resume is given and there is nothing to go on from."""
    path = checkpoint_of(arguments)
    if arguments.resume and not path.exists():
        raise SAMAutoSegError(
            f"nothing to resume: {path} does not exist; leave out --resume to start anew"
        )
