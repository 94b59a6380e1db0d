"""``samautoseg finetune --method we-sam``: a model adapts to images without contours."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SAMAutoSegLib.errors import SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import ModelCard
    from SAMAutoSegLib.images.slices import Plane
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.methods.training_set import LabeledVolume
    from SAMAutoSegLib.methods.tuned_model import FineTuned
    from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume

# Slices of all images together where nobody says which: each takes some MB in every view.
_MOST_UNNAMED = 24


def adapted_by(arguments: argparse.Namespace, settings: dict[str, Any]) -> "tuple[FineTuned, Path]":
    """The adapted model, and where an interrupted training is kept.

    Raises:
        SAMAutoSegError: arguments that do not belong together, and all that `adapt_source` refuses.
    """
    _check(arguments)
    from SAMAutoSegLib.adapt.adapted_file import read_card
    from SAMAutoSegLib.cli.given_training import checkpoint_of, require_checkpoint, started_from
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.read import read_image
    from SAMAutoSegLib.methods.adapt_source import adapt_source
    from SAMAutoSegLib.progress import console_progress
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache

    require_checkpoint(arguments)
    card = read_card(arguments.start)
    images = [read_image(path) for path in arguments.image]
    volumes, notes = _unlabeled(arguments, images, card.plane, card.structures)
    held_out = _held_out(arguments, images, card)
    checkpoint = checkpoint_of(arguments)
    if arguments.encoder_blocks is not None:
        settings = {"encoder_blocks": arguments.encoder_blocks} | settings
    with console_progress() as progress:
        tuned = adapt_source(
            volumes,
            started_from(arguments),
            settings=settings,
            intensity=Intensity.parse(arguments.intensity) if arguments.intensity else None,
            held_out=held_out,
            cache=None if arguments.no_cache else EmbeddingCache(),
            checkpoint=checkpoint,
            resume=arguments.resume,
            progress=progress,
        )
    tuned.result.notes[:0] = notes
    return tuned, checkpoint


def adapt_sam(arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Adapt the SAM of --base, which stays one that is prompted, and write it.

    Raises:
        SAMAutoSegError: arguments that do not belong together, and all that `adapt_prompted`
            refuses.
    """
    _check(arguments)
    if not arguments.weak or not arguments.structures:
        raise SAMAutoSegError(
            "we-sam adapts a model: name it with --start. Or a prompted SAM: give --weak, and with "
            "--structures the names that are used there"
        )
    if arguments.held_out or arguments.resume or arguments.curve:
        raise SAMAutoSegError("--held-out, --resume and --curve need --start: leave them out")
    from SAMAutoSegLib.adapt.prompted_model import save_merged
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.read import read_image
    from SAMAutoSegLib.images.slices import plane_along
    from SAMAutoSegLib.images.structure import standard_structures
    from SAMAutoSegLib.methods.we_sam_prompted import adapt_prompted
    from SAMAutoSegLib.progress import Cancelled, console_progress
    from SAMAutoSegLib.sam.checkpoint import load_backbone
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
    from SAMAutoSegLib.sam.fetch import fetched

    images = [read_image(path) for path in arguments.image]
    plane = plane_along(images[0].grid, arguments.axis)
    names = [name.strip() for name in arguments.structures.split(",")]
    if "" in names or len({name.casefold() for name in names}) < len(names):
        raise SAMAutoSegError(
            f"--structures {arguments.structures}: expected names, each once, as in liver,spleen"
        )
    volumes, notes = _unlabeled(arguments, images, plane, standard_structures(names))
    if arguments.encoder_blocks is not None:
        settings = {"encoder_blocks": arguments.encoder_blocks} | settings
    with console_progress() as progress:
        base = fetched(arguments.base, progress)
        backbone = load_backbone(base, side=arguments.side, device=arguments.device)
        adapted = adapt_prompted(
            volumes,
            backbone,
            plane=plane,
            settings=settings,
            intensity=Intensity.parse(arguments.intensity) if arguments.intensity else None,
            cache=None if arguments.no_cache else EmbeddingCache(),
            progress=progress,
        )
    save_merged(arguments.output, adapted.model, backbone)
    steps, stopped = len(adapted.history), adapted.stopped
    if arguments.json:
        report = {"model": str(arguments.output), "steps": steps, "stopped": stopped or None}
        print(json.dumps(report | {"notes": notes + adapted.notes}, indent=2))
    else:
        print(f"{arguments.output}: a SAM to be prompted, {steps} steps ({stopped or 'all'})")
        for note in notes + adapted.notes:
            print(f"note: {note}")
    if stopped == "cancelled":
        raise Cancelled(f"stopped at step {steps}; the best so far is in {arguments.output}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.method != "we-sam":
        raise SAMAutoSegError(f"--weak belongs to --method we-sam, not to {arguments.method}")
    if arguments.labels and not arguments.held_out:
        raise SAMAutoSegError(
            "we-sam learns from no --labels: give --weak; or --held-out too, for a score"
        )
    if arguments.start and (arguments.structures or arguments.axis != "auto"):
        raise SAMAutoSegError(
            "--structures and --axis are those of the model given by --start: leave them out"
        )
    if arguments.calibrate:
        raise SAMAutoSegError("--calibrate needs --labels, from which we-sam does not learn")
    if arguments.lora_rank is not None:
        raise SAMAutoSegError("we-sam chooses the rank of its updates itself: no --lora-rank")
    for name in ("labels", "weak", "slices"):
        given = getattr(arguments, name) or []
        if given and len(given) != len(arguments.image):
            raise SAMAutoSegError(
                f"{len(given)} --{name} for {len(arguments.image)} images: give it for every image"
            )


def _unlabeled(
    arguments: argparse.Namespace,
    images: "list[Volume]",
    plane: "Plane",
    structures: "Sequence[Structure]",
) -> "tuple[list[UnlabeledVolume], list[str]]":
    """The slices to adapt to: those named, else those with a weak label, else some of all."""
    from SAMAutoSegLib.images.selection import parse_slices
    from SAMAutoSegLib.images.slices import SliceStack
    from SAMAutoSegLib.images.weak_label_files import read_weak_labels
    from SAMAutoSegLib.images.weak_labels import WeakLabels
    from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume

    volumes, notes = [], []
    for n, image in enumerate(images):
        weak = WeakLabels(plane)
        if arguments.weak:
            weak, told = read_weak_labels(arguments.weak[n], image, plane, structures)
            notes += told if arguments.start else []  # a prompted SAM finds nothing by itself
        count = len(SliceStack(image.array, image.grid, plane))
        if arguments.slices:
            chosen = parse_slices(arguments.slices[n], count)
            if unused := [number for number in weak.slices if number not in chosen]:
                notes.append(
                    f"weak labels of {image.name} in slices that --slices leaves out are not used: "
                    f"{', '.join(map(str, unused))}"
                )
        elif weak.slices or not arguments.start:
            chosen = weak.slices
        else:
            most = min(count, max(1, _MOST_UNNAMED // len(images)))
            chosen = [(2 * k + 1) * count // (2 * most) for k in range(most)]
            if most < count:
                notes.append(
                    f"{most} of the {count} slices of {image.name}, evenly spread, are adapted to: "
                    "name others with --slices"
                )
        volumes.append(UnlabeledVolume(image, tuple(chosen), weak))
    return volumes, list(dict.fromkeys(notes))


def _held_out(
    arguments: argparse.Namespace, images: "list[Volume]", card: "ModelCard"
) -> "list[LabeledVolume]":
    if not arguments.held_out:
        return []
    if not arguments.labels:
        raise SAMAutoSegError("--held-out needs --labels, which give the score and train nothing")
    from SAMAutoSegLib.cli.given_labels import labeled, labels_of
    from SAMAutoSegLib.images.read import read_layers

    pairs = [
        (image, labels_of(image, read_layers(path), card.structures)[0])
        for image, path in zip(images, arguments.labels, strict=True)
    ]
    return labeled(pairs, "--held-out", arguments.held_out, card.plane, card.structures)
