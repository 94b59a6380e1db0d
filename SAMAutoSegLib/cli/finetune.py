"""``samautoseg finetune``: a few labeled slices teach a model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from SAMAutoSegLib.cli.given_training import (
    DEFAULT_BASE,
    checkpoint_of,
    require_checkpoint,
    settings_of,
    started_from,
)
from SAMAutoSegLib.cli.wording import counted
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.methods.registry import method_named, method_names

if TYPE_CHECKING:
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.methods.tuned_model import FineTuned

    Pair = tuple[Volume, Volume]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg finetune``."""
    parser.description = (
        "Learn to segment from a few labeled slices. Give --image, --labels and --slices once for"
        " every volume. Ctrl-C stops and keeps the best so far."
    )
    data = parser.add_argument_group("what is learned from")
    data.add_argument("--image", type=Path, action="append", required=True, help="image")
    data.add_argument(
        "--labels", type=Path, action="append", default=[], help="its labels, on the same grid"
    )
    data.add_argument(
        "--slices",
        action="append",
        metavar="LIST",
        help="its labeled slices, as in 3,9,15-20, or none of it (default: those that hold a label"
        " and are not held out)",
    )
    data.add_argument(
        "--structures",
        metavar="LIST",
        help="what is learned: names or label values, comma-separated, or VALUE=NAME to name the"
        " values of a file that has no names (default: all in the first labels)",
    )
    data.add_argument(
        "--held-out",
        action="append",
        metavar="LIST",
        help="labeled slices that train nothing and give an honest score; with several volumes one"
        " list for each, 'none' where nothing is held out",
    )
    data.add_argument(
        "--start",
        type=Path,
        metavar="MODEL",
        help="a model to go on from, of the same or other structures; with --method we-sam the one"
        " that is adapted to the images, without --labels (we-sam without it: the SAM of --base"
        " is, and stays one that is prompted)",
    )
    data.add_argument(
        "--weak",
        type=Path,
        action="append",
        nargs="+",
        metavar="FILE",
        help="with we-sam: the weak labels of an image, once for every image: JSON, markups of"
        " 3D Slicer (.mrk.json), rough paint as a label volume ('Files of weak labels' in"
        " https://www.example.org/SlicerSAMAutoSeg, docs/methods.md)",
    )
    data.add_argument("--axis", default="auto", help="axial, coronal, sagittal, i, j, k or auto")
    data.add_argument(
        "--intensity",
        metavar="RANGE",
        help="ct:abdomen and other windows, percentile:0.5,99.5, or limits: --intensity=-160,240"
        " (default: by modality)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--method", default="blo-sam", help=f"{', '.join(method_names())} (default: blo-sam)"
    )
    how.add_argument(
        "--base",
        default=DEFAULT_BASE,
        metavar="NAME|FILE",
        help="the SAM to adapt: a name of 'samautoseg models list', or a file"
        f" (default: {DEFAULT_BASE}, or that of --start)",
    )
    how.add_argument("--side", type=int, help="input side of a ViT: 448, 672, 896 or 1024")
    how.add_argument(
        "--budget",
        help="quick, standard or thorough (default: standard; of we-sam, its own number of steps)",
    )
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method, as in --set learning_rate=0.005",
    )
    how.add_argument("--seed", type=int, help="of everything random")
    how.add_argument(
        "--encoder-blocks",
        type=int,
        metavar="N",
        help="adapt the encoder's last N blocks too; slower (default: as the method does)",
    )
    how.add_argument(
        "--lora-rank", type=int, metavar="R", help="rank of the update (default: the method's)"
    )
    how.add_argument(
        "--calibrate",
        action="store_true",
        help="find out how sure the model may be, by two more trainings on half of the slices each",
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    how.add_argument("--no-cache", action="store_true", help="keep no embeddings on disk")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="model file to write (.safetensors)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where this command was interrupted"
    )
    parser.add_argument("--curve", type=Path, metavar="PNG", help="draw the course of the training")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Train, write the model, report."""
    from SAMAutoSegLib.adapt.adapted_file import located
    from SAMAutoSegLib.files import require_apart, require_writable
    from SAMAutoSegLib.sam import catalog

    weak = [path for paths in arguments.weak or [] for path in paths]
    former = located(arguments.start) if arguments.start else None
    inputs = [*arguments.image, *arguments.labels, Path(arguments.base), *weak, former]
    written = [arguments.output, checkpoint_of(arguments), arguments.curve]
    require_apart(written, [*inputs, *(entry.local_path for entry in catalog.entries())])
    for path in filter(None, (arguments.output, arguments.curve)):
        require_writable(path)
    if arguments.output.suffix != ".safetensors":
        raise SAMAutoSegError(
            f"{arguments.output} cannot hold a model: name a file that ends in .safetensors"
        )
    settings = settings_of(arguments)
    if weak or arguments.method == "we-sam":
        from SAMAutoSegLib.cli.finetune_weak import adapt_sam, adapted_by

        if not arguments.start:
            return adapt_sam(arguments, settings)
        return _finish(*adapted_by(arguments, settings), arguments)

    from SAMAutoSegLib.adapt.adapted_file import read_card
    from SAMAutoSegLib.cli.given_labels import labeled
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.slices import plane_along
    from SAMAutoSegLib.methods.finetune import finetune
    from SAMAutoSegLib.progress import console_progress
    from SAMAutoSegLib.sam.checkpoint import load_backbone
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
    from SAMAutoSegLib.sam.fetch import fetched

    method_named(arguments.method)
    require_checkpoint(arguments)
    known = None if arguments.start is None else read_card(arguments.start)
    pairs, structures, notes = _read(arguments)
    axis = known.plane if known and arguments.axis == "auto" else arguments.axis
    plane = plane_along(pairs[0][0].grid, axis)
    held_out = []
    if arguments.held_out:
        held_out = labeled(pairs, "--held-out", arguments.held_out, plane, structures)
    volumes = labeled(pairs, "--slices", arguments.slices, plane, structures, held_out)
    intensity = None if arguments.intensity is None else Intensity.parse(arguments.intensity)
    checkpoint = checkpoint_of(arguments)
    with console_progress() as progress:
        start = None
        if arguments.start:
            start = started_from(arguments)
            backbone = start.backbone
        else:
            base = fetched(arguments.base, progress)
            backbone = load_backbone(base, side=arguments.side, device=arguments.device)
        tuned = finetune(
            volumes,
            structures,
            backbone,
            plane=plane,
            method=arguments.method,
            settings=settings,
            adaptation=_adaptation(arguments) or None,
            intensity=intensity,
            start=start,
            held_out=held_out,
            with_calibration=arguments.calibrate,
            cache=None if arguments.no_cache else EmbeddingCache(),
            checkpoint=checkpoint,
            resume=arguments.resume,
            progress=progress,
        )
    tuned.result.notes[:0] = notes
    return _finish(tuned, checkpoint, arguments)


def _finish(tuned: "FineTuned", checkpoint: Path, arguments: argparse.Namespace) -> int:
    from SAMAutoSegLib.adapt.adapted_file import save_adapted
    from SAMAutoSegLib.evaluate.figures import training_curve_png

    try:
        save_adapted(arguments.output, tuned.adapted)
    except SAMAutoSegError as error:
        if not checkpoint.exists():
            raise
        raise SAMAutoSegError(
            f"{error}; what was learned is kept: the same command with --resume writes it"
        ) from error
    if tuned.result.stopped != "cancelled":
        checkpoint.unlink(missing_ok=True)
    if arguments.curve:
        training_curve_png(arguments.curve, tuned.result.history, title=arguments.method)
    _report(tuned, arguments)
    if tuned.result.stopped == "cancelled":
        further = "the same command with --resume goes on"
        if not checkpoint.exists():
            further = f"but {checkpoint} could not be written, so it cannot be resumed"
        raise Cancelled(
            f"stopped at step {tuned.result.steps}; the best so far is in {arguments.output}, "
            f"{further}"
        )
    return 0


def _adaptation(arguments: argparse.Namespace) -> dict[str, int]:
    given = {"lora_rank": arguments.lora_rank, "encoder_blocks": arguments.encoder_blocks}
    return {name: value for name, value in given.items() if value is not None}


def _read(arguments: argparse.Namespace) -> "tuple[list[Pair], list[Structure], list[str]]":
    """The images with labels, all numbered as in the first, what to learn of them, and notes."""
    from SAMAutoSegLib.cli.given_labels import labels_of
    from SAMAutoSegLib.images.read import read_image, read_layers

    given = {name: len(getattr(arguments, name) or []) for name in ("image", "labels")}
    if given["image"] != given["labels"]:
        raise SAMAutoSegError(
            f"{given['image']} --image but {given['labels']} --labels: give both for every volume"
        )
    files = [read_layers(path) for path in arguments.labels]
    structures = _chosen(arguments.structures, files[0].structures)
    wanted = [structure.label for structure in structures]
    pairs = []
    notes: list[str] = []
    for path, layers in zip(arguments.image, files, strict=True):
        image = read_image(path)
        labels, told = labels_of(image, layers, files[0].structures, wanted)
        pairs.append((image, labels))
        notes += told
    return pairs, structures, notes


def _chosen(text: str | None, found: "list[Structure]") -> "list[Structure]":
    """What to learn: by name or value, VALUE=NAME gives another name; by default all."""
    from SAMAutoSegLib.cli.given_labels import listed
    from SAMAutoSegLib.images.structure import structure_named

    if not found:
        raise SAMAutoSegError("the first labels hold nothing but background: label some slices")
    there = listed(found)
    chosen: list[Structure] = list(found) if text is None else []
    for item in (item.strip() for item in text.split(",")) if text is not None else ():
        value, equals, name = (part.strip() for part in item.partition("="))
        if equals and not name:
            raise SAMAutoSegError(f"structure {item!r} has no name: expected VALUE=NAME")
        hits = [s for s in found if value.casefold() in (str(s.label), s.name.casefold())]
        if not hits:
            raise SAMAutoSegError(f"structure {value!r} is not in the first labels; there: {there}")
        if len(hits) > 1:
            raise SAMAutoSegError(
                f"structure {value!r} is several in the first labels: give its value; there:"
                f" {there}"
            )
        chosen.append(structure_named(name, hits[0].label) if equals else hits[0])
    for number, one in enumerate(chosen):
        for other in chosen[:number]:
            if one.label == other.label:
                raise SAMAutoSegError(f"structure {one.name!r} is named twice: name it once")
            if one.name.casefold() == other.name.casefold():
                raise SAMAutoSegError(
                    f"{other.label} and {one.label} are both named {one.name!r}: tell them apart,"
                    f" as in --structures '{other.label}={one.name} 1,{one.label}={one.name} 2'"
                )
    return chosen


def _report(tuned: "FineTuned", arguments: argparse.Namespace) -> None:
    result, card = tuned.result, tuned.adapted.card
    score = card.provenance["held_out_dice"]
    by_structure = card.provenance["held_out_dice_by_structure"]
    if arguments.json:
        report = {
            "model": str(arguments.output),
            "method": card.method,
            "structures": [structure.name for structure in card.structures],
            "steps": result.steps,
            "best_step": result.best_step,
            "stopped": result.stopped or None,
            "held_out_dice": score,
            "held_out_dice_by_structure": by_structure,
            "seconds": {name: round(value, 2) for name, value in tuned.seconds.items()},
            "notes": result.notes,
        }
        print(json.dumps(report, indent=2))
        return
    names = ", ".join(structure.name for structure in card.structures)
    learned = counted(card.slices_learned or 0, "slice")
    how = f"learned from {learned}" if card.slices_learned else "adapted"
    print(f"{arguments.output}: {names}, {how} by {card.method}")
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in tuned.seconds.items() if value)
    print(f"{result.steps} steps ({result.stopped or 'all'}), {spent}")
    if score is not None:
        print(f"mean Dice on the held-out slices: {score:.3f}")
        width = max(map(len, by_structure))
        for name, dice in by_structure.items():
            print(f"  {name:{width}}  {dice:.3f}")
    elif card.provenance["held_out"]:
        print("no held-out score: no held-out slice shows any of the structures")
    elif not arguments.held_out:
        print("no held-out score: no slice was held out (--held-out)")
    for note in result.notes:
        print(f"note: {note}")
