"""``samautoseg segment``: an image segmented by an adapted model."""

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from SAMAutoSegLib.cli.wording import counted
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import ModelCard
    from SAMAutoSegLib.images.slices import Plane
    from SAMAutoSegLib.images.volume import Grid, Volume
    from SAMAutoSegLib.segment.corrected import CorrectedSlices
    from SAMAutoSegLib.segment.refinement import Refinement
    from SAMAutoSegLib.segment.volume import SegmentationResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg segment``."""
    parser.description = (
        "Segment all structures that a model knows, without a prompt. Ctrl-C stops and keeps the"
        " slices that are done."
    )
    parser.add_argument("image", type=Path, help="image file, or folder with one DICOM series")
    parser.add_argument(
        "-m",
        "--model",
        required=True,
        help="a name of 'samautoseg models list', or a file that 'samautoseg finetune' wrote",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help=".seg.nrrd (with names and colors for Slicer), .nii.gz, .nii, .nrrd or .mha",
    )
    parser.add_argument(
        "--base", metavar="FILE", help="the SAM that the model was trained on, if not found by name"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)"
    )
    where = parser.add_argument_group("what is segmented (default: everything)")
    where.add_argument("--slices", metavar="LIST", help="slice numbers, as in 3,9,15-20")
    where.add_argument(
        "--roi", metavar="BOX", help="voxels i0:i1,j0:j1,k0:k1; the ends are not included"
    )
    known = parser.add_argument_group("slices that you corrected (default: none)")
    known.add_argument(
        "--corrected",
        type=Path,
        metavar="LABELS",
        help="labels of this image that are right in some slices: these stay, the others follow",
    )
    known.add_argument(
        "--corrected-slices",
        metavar="LIST",
        help="in which (default: in those that hold a structure of the model)",
    )
    shown = parser.add_argument_group("how the image is shown to the model (default: as trained)")
    shown.add_argument("--axis", help="axial, coronal, sagittal, i, j, k or auto")
    shown.add_argument(
        "--intensity",
        metavar="RANGE",
        help="ct:abdomen and other windows, percentile:0.5,99.5, or limits: --intensity=-160,240",
    )
    refine = parser.add_argument_group("refinement (default: none)")
    refine.add_argument(
        "--refine",
        type=int,
        metavar="N",
        help="let each prediction prompt the decoder again, up to N times (1 does most)",
    )
    refine.add_argument(
        "--refine-with",
        metavar="KIND",
        help="box, box-point, box-mask or box-point-mask (default: as the model was trained; box if"
        " it was trained without prompts)",
    )
    refine.add_argument(
        "--keep-iteration",
        type=int,
        metavar="K",
        help="keep this iteration, 0 the first pass (default: the best by the built-in rule)",
    )
    refine.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="JSON file for what was done to each structure of each slice",
    )
    cleanup = parser.add_argument_group("clean-up (default: none)")
    cleanup.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="MM",
        help="smooth across slices by a Gaussian of this standard deviation",
    )
    cleanup.add_argument(
        "--remove-islands",
        type=float,
        default=0.0,
        metavar="MM3",
        help="remove connected parts that are smaller",
    )
    cleanup.add_argument(
        "--largest-component",
        action="store_true",
        help="keep only the largest connected part of each structure",
    )
    parser.add_argument(
        "--uncertainty",
        type=Path,
        metavar="FILE",
        help="write the probability that a voxel's label is wrong (.nrrd, .nii.gz, .nii or .mha),"
        " and tell which slices to check first",
    )
    parser.add_argument("--batch", type=int, help="slices per pass of the encoder")
    parser.add_argument(
        "--no-cache", action="store_true", help="neither use nor keep embeddings on disk"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Segment, write and report."""
    from SAMAutoSegLib.adapt.adapted_file import load_adapted, located
    from SAMAutoSegLib.cli.segment_report import report_of, tell
    from SAMAutoSegLib.device import choose_device
    from SAMAutoSegLib.files import sha256_of_file
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.read import read_image
    from SAMAutoSegLib.images.selection import Roi, parse_slices
    from SAMAutoSegLib.images.slices import SliceStack, plane_for
    from SAMAutoSegLib.progress import console_progress
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
    from SAMAutoSegLib.segment.cleanup import CleanUp
    from SAMAutoSegLib.segment.volume import segment_volume

    times = [time.monotonic()]
    model_file = located(arguments.model)
    _check(arguments, model_file)
    cleanup = CleanUp(arguments.largest_component, arguments.remove_islands, arguments.smooth)
    refinement = _refinement(arguments)
    intensity = None if arguments.intensity is None else Intensity.parse(arguments.intensity)
    device = choose_device(arguments.device)
    volume = read_image(arguments.image)
    roi = None if arguments.roi is None else Roi.parse(arguments.roi, volume.grid.size)
    adapted = load_adapted(model_file, base=arguments.base, device=device)
    card, backbone = adapted.card, adapted.backbone
    plane = plane_for(volume.grid, card.plane, arguments.axis)
    stack = SliceStack(volume.array, volume.grid, plane)
    length = len(stack) * stack.slice_spacing
    if len(stack) > 1 and arguments.smooth > length:
        raise SAMAutoSegError(
            f"--smooth {arguments.smooth:g}: expected 0 to {length:g} mm, as long as the image is "
            "across its slices"
        )
    slices = None if arguments.slices is None else parse_slices(arguments.slices, len(stack))
    corrected, notes = _corrected(arguments, volume, plane, card)
    times.append(time.monotonic())
    with console_progress() as progress:
        result = segment_volume(
            volume,
            adapted,
            axis=plane,
            slices=slices,
            roi=roi,
            intensity=intensity,
            corrected=corrected,
            cache=None if arguments.no_cache else EmbeddingCache(),
            cleanup=cleanup,
            refinement=refinement,
            uncertainty=arguments.uncertainty is not None,
            batch=arguments.batch,
            progress=progress,
        )
    result.notes[:0] = notes
    if not result.slices_done:
        raise Cancelled("stopped before the first slice was done: nothing was written")
    times.append(time.monotonic())
    origin = {
        "model": model_file.name,
        "model_sha256": sha256_of_file(model_file),
        "backbone": card.backbone,
        "backbone_sha256": card.backbone_sha256,
        "method": card.method,
        "image": arguments.image.resolve().name,
    }
    _write(arguments, result, card, volume.grid, origin)
    times.append(time.monotonic())
    report = {
        **origin,
        "output": str(arguments.output),
        "device": str(backbone.device),
        "precision": str(backbone.precision).removeprefix("torch."),
        "axis": plane,
        "corrected_slices": [] if corrected is None else list(corrected.slices),
        **report_of(result, card, volume.grid),
        "seconds": {
            name: round(after - before, 3)
            for name, before, after in (
                ("loading", times[0], times[1]),
                ("segmenting", times[1], times[2]),
                ("writing", times[2], times[3]),
                ("total", times[0], times[3]),
            )
        },
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        tell(report)
    if result.cancelled:
        done = counted(len(result.slices_done), "slice")
        raise Cancelled(f"stopped; {arguments.output} holds {done}")
    return 0


def _check(arguments: argparse.Namespace, model_file: Path) -> None:
    """`SAMAutoSegError` for what cannot be done or would overwrite an input."""
    from SAMAutoSegLib.files import require_apart, require_writable
    from SAMAutoSegLib.images.write import SEGMENTATION_SUFFIX, require_known_format
    from SAMAutoSegLib.sam import catalog

    if arguments.batch is not None and arguments.batch < 1:
        raise SAMAutoSegError(f"--batch {arguments.batch}: expected 1 or more slices")
    for option, value, unit in (
        ("--smooth", arguments.smooth, "mm"),
        ("--remove-islands", arguments.remove_islands, "mm3"),
    ):
        if not 0 <= value < math.inf:
            raise SAMAutoSegError(f"{option} {value:g}: expected 0 or more {unit}")
    base = Path(arguments.base) if arguments.base else None
    require_apart(
        [arguments.output, arguments.uncertainty, arguments.trace],
        [arguments.image, arguments.corrected, model_file, base]
        + [entry.local_path for entry in catalog.entries()],
    )
    if arguments.uncertainty and arguments.uncertainty.name.endswith(SEGMENTATION_SUFFIX):
        raise SAMAutoSegError(
            f"--uncertainty {arguments.uncertainty}: {SEGMENTATION_SUFFIX} is for segmentations; "
            "name it .nrrd"
        )
    for image in (arguments.output, arguments.uncertainty):
        if image:
            require_known_format(image)
            require_writable(image)
    if arguments.trace:
        require_writable(arguments.trace)


def _refinement(arguments: argparse.Namespace) -> "Refinement | None":
    from SAMAutoSegLib.segment.refinement import Refinement

    if arguments.refine is not None:
        kept = arguments.keep_iteration
        return Refinement(arguments.refine, kept, prompt=arguments.refine_with)
    for name in ("keep_iteration", "trace", "refine_with"):
        if getattr(arguments, name) is not None:
            raise SAMAutoSegError(f"--{name.replace('_', '-')} needs --refine N")
    return None


def _write(
    arguments: argparse.Namespace,
    result: "SegmentationResult",
    card: "ModelCard",
    grid: "Grid",
    origin: dict[str, str],
) -> None:
    from SAMAutoSegLib import __version__
    from SAMAutoSegLib.cli.segment_report import trace_of
    from SAMAutoSegLib.files import replace_when_complete
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.images.write import write_segmentation, write_volume

    now = datetime.now(UTC).isoformat(timespec="seconds")
    provenance = {**origin, "version": __version__, "date": now}
    write_segmentation(arguments.output, result.labels, grid, list(card.structures), provenance)
    if result.uncertainty is not None:
        write_volume(arguments.uncertainty, Volume(result.uncertainty, grid, "uncertainty"))
    if arguments.trace:
        with replace_when_complete(arguments.trace) as temporary:
            temporary.write_text(json.dumps(trace_of(result, card), indent=2), encoding="utf-8")


def _corrected(
    arguments: argparse.Namespace, volume: "Volume", plane: "Plane", card: "ModelCard"
) -> "tuple[CorrectedSlices | None, list[str]]":
    """The corrected slices, numbered along the plane that is segmented, and notes on them."""
    from SAMAutoSegLib.cli.given_labels import labeled, labels_of, listed
    from SAMAutoSegLib.images.read import read_layers
    from SAMAutoSegLib.segment.corrected import CorrectedSlices

    if arguments.corrected is None:
        if arguments.corrected_slices is not None:
            raise SAMAutoSegError("--corrected-slices needs --corrected LABELS")
        return None, []
    layers = read_layers(arguments.corrected)
    labels, notes = labels_of(volume, layers, card.structures)
    if not labels.array.any():
        there = listed(layers.structures, values=False) or "nothing but background"
        raise SAMAutoSegError(
            f"{arguments.corrected} has none of the structures that the model knows "
            f"({listed(card.structures, values=False)}); there: {there}"
        )
    given = None if arguments.corrected_slices is None else [arguments.corrected_slices]
    option = "--corrected-slices"
    chosen = labeled([(volume, labels)], option, given, plane, card.structures)
    return CorrectedSlices(labels.array, chosen[0].slices), notes
