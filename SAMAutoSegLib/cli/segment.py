"""``samautoseg segment``: an image segmented by an adapted model."""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SAMAutoSegLib.cli.wording import counted
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from SAMAutoSegLib.adapt.adapted_file import ModelCard
    from SAMAutoSegLib.images.slices import Plane
    from SAMAutoSegLib.images.structure import Structure
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.segment.corrected import CorrectedSlices
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
    parser.add_argument(
        "--views",
        type=int,
        default=1,
        metavar="N",
        help="average over N slightly changed views of every slice (default: 1); takes N times as"
        " long, and may help on other patients, not in a volume that was learned from",
    )
    parser.add_argument("--batch", type=int, help="slices per pass of the encoder")
    parser.add_argument(
        "--no-cache", action="store_true", help="neither use nor keep embeddings on disk"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Segment, write and report."""
    if arguments.batch is not None and arguments.batch < 1:
        raise SAMAutoSegError(f"--batch {arguments.batch}: expected 1 or more slices")
    from SAMAutoSegLib.adapt.adapted_file import load_adapted, located
    from SAMAutoSegLib.device import choose_device
    from SAMAutoSegLib.files import (
        replace_when_complete,
        require_apart,
        require_writable,
        sha256_of_file,
    )
    from SAMAutoSegLib.images.intensity import Intensity
    from SAMAutoSegLib.images.read import read_image
    from SAMAutoSegLib.images.selection import Roi, parse_slices
    from SAMAutoSegLib.images.slices import SliceStack, plane_for
    from SAMAutoSegLib.images.volume import Volume
    from SAMAutoSegLib.images.write import (
        require_known_format,
        write_segmentation,
        write_volume,
    )
    from SAMAutoSegLib.progress import console_progress
    from SAMAutoSegLib.sam import catalog
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
    from SAMAutoSegLib.segment.cleanup import CleanUp
    from SAMAutoSegLib.segment.refinement import Refinement
    from SAMAutoSegLib.segment.uncertainty import first_to_check
    from SAMAutoSegLib.segment.volume import segment_volume

    started = time.monotonic()
    model_file = located(arguments.model)
    base = Path(arguments.base) if arguments.base else None
    require_apart(
        [arguments.output, arguments.uncertainty, arguments.trace],
        [arguments.image, arguments.corrected, model_file, base]
        + [entry.local_path for entry in catalog.entries()],
    )
    require_known_format(arguments.output)
    require_writable(arguments.output)
    if arguments.uncertainty:
        require_known_format(arguments.uncertainty)
        require_writable(arguments.uncertainty)
    cleanup = CleanUp(arguments.largest_component, arguments.remove_islands, arguments.smooth)
    for name in ("keep_iteration", "trace", "refine_with"):
        if arguments.refine is None and getattr(arguments, name) is not None:
            raise SAMAutoSegError(f"--{name.replace('_', '-')} needs --refine N")
    refinement = None
    if arguments.refine is not None:
        refinement = Refinement(
            arguments.refine, arguments.keep_iteration, prompt=arguments.refine_with
        )
    if arguments.trace:
        require_writable(arguments.trace)
    intensity = None if arguments.intensity is None else Intensity.parse(arguments.intensity)
    device = choose_device(arguments.device)
    volume = read_image(arguments.image)
    roi = None if arguments.roi is None else Roi.parse(arguments.roi, volume.grid.size)
    model, card, backbone = load_adapted(model_file, base=arguments.base, device=device)
    plane = plane_for(volume.grid, card.plane, arguments.axis)
    count = len(SliceStack(volume.array, volume.grid, plane))
    slices = None if arguments.slices is None else parse_slices(arguments.slices, count)
    corrected, notes = _corrected(arguments, volume, plane, card)

    loaded = time.monotonic()
    with console_progress() as progress:
        result = segment_volume(
            volume,
            model,
            card,
            backbone,
            axis=plane,
            slices=slices,
            roi=roi,
            intensity=intensity,
            corrected=corrected,
            cache=None if arguments.no_cache else EmbeddingCache(),
            cleanup=cleanup,
            refinement=refinement,
            uncertainty=arguments.uncertainty is not None,
            views=arguments.views,
            batch=arguments.batch,
            progress=progress,
        )
    result.notes[:0] = notes
    if not result.slices_done:
        raise Cancelled("stopped before the first slice was done: nothing was written")
    segmented = time.monotonic()
    facts = {
        "model": model_file.name,
        "model_sha256": sha256_of_file(model_file),
        "backbone": card.backbone,
        "backbone_sha256": card.backbone_sha256,
        "method": card.method,
        "image": arguments.image.resolve().name,
    }
    write_segmentation(
        arguments.output,
        result.labels,
        volume.grid,
        list(card.structures),
        {**facts, **_circumstances()},
    )
    if result.uncertainty is not None:
        doubts = Volume(result.uncertainty, volume.grid, "uncertainty")
        write_volume(arguments.uncertainty, doubts)
    if arguments.trace:
        with replace_when_complete(arguments.trace) as temporary:
            temporary.write_text(json.dumps(_trace(result, card), indent=2), encoding="utf-8")
    written = time.monotonic()
    report = {
        **facts,
        "output": str(arguments.output),
        "device": str(backbone.device),
        "precision": str(backbone.precision).removeprefix("torch."),
        "axis": plane,
        "slices": result.slices_done,
        "corrected_slices": [] if corrected is None else list(corrected.slices),
        "cancelled": result.cancelled,
        "refinement": _decisions(result),
        "structures": _sizes(result, card, volume),
        "uncertainty_by_slice": {
            number: round(value, 1) for number, value in result.uncertainty_by_slice.items()
        },
        "check_first": first_to_check(result.uncertainty_by_slice),
        "notes": result.notes,
        "seconds": {
            "loading": round(loaded - started, 3),
            "segmenting": round(segmented - loaded, 3),
            "writing": round(written - segmented, 3),
            "total": round(written - started, 3),
        },
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _tell(report)
    if result.cancelled:
        raise Cancelled(
            f"stopped; {arguments.output} holds {counted(len(result.slices_done), 'slice')}"
        )
    return 0


def _corrected(
    arguments: argparse.Namespace, volume: "Volume", plane: "Plane", card: "ModelCard"
) -> "tuple[CorrectedSlices | None, list[str]]":
    """The corrected slices, numbered along the plane that is segmented, and notes on them."""
    from SAMAutoSegLib.cli.given_labels import labeled, labels_of
    from SAMAutoSegLib.images.read import read_layers
    from SAMAutoSegLib.segment.corrected import CorrectedSlices

    if arguments.corrected is None:
        if arguments.corrected_slices is not None:
            raise SAMAutoSegError("--corrected-slices needs --corrected LABELS")
        return None, []
    layers = read_layers(arguments.corrected)
    labels, notes = labels_of(volume, layers, card.structures)
    if not labels.array.any():
        there = _names(layers.structures) or "nothing but background"
        raise SAMAutoSegError(
            f"{arguments.corrected} has none of the structures that the model knows "
            f"({_names(card.structures)}); there: {there}"
        )
    given = None if arguments.corrected_slices is None else [arguments.corrected_slices]
    option = "--corrected-slices"
    chosen = labeled([(volume, labels)], option, given, plane, card.structures)
    return CorrectedSlices(labels.array, chosen[0].slices), notes


def _names(structures: "Sequence[Structure]") -> str:
    return ", ".join(structure.name for structure in structures)


def _circumstances() -> dict[str, str]:
    from SAMAutoSegLib import __version__

    return {"version": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _sizes(
    result: "SegmentationResult", card: "ModelCard", volume: "Volume"
) -> list[dict[str, Any]]:
    import numpy as np

    sizes = []
    for structure in card.structures:
        voxels = int(np.count_nonzero(result.labels == structure.label))
        milliliters = round(voxels * volume.grid.voxel_volume_mm3 / 1000, 3)
        sizes.append(
            {
                "name": structure.name,
                "label": structure.label,
                "voxels": voxels,
                "milliliters": milliliters,
            }
        )
    return sizes


def _trace(result: "SegmentationResult", card: "ModelCard") -> dict[str, Any]:
    """Every iteration of every structure of every slice."""
    names = [structure.name for structure in card.structures]
    return {
        "slices": {
            str(number): [{"structure": names[step.number - 1], **step.to_json()} for step in steps]
            for number, steps in result.trace.items()
        }
    }


def _decisions(result: "SegmentationResult") -> dict[str, int]:
    """How often each decision was made, and how often a first pass or its refinement was kept."""
    counts: dict[str, int] = {}
    for step in (step for steps in result.trace.values() for step in steps):
        counts[step.decision] = counts.get(step.decision, 0) + 1
        if step.kept and step.area:
            kept = "refinement kept" if step.iteration else "first pass kept"
            counts[kept] = counts.get(kept, 0) + 1
    return counts


def _tell(report: dict[str, Any]) -> None:
    width = max(len(structure["name"]) for structure in report["structures"])
    for structure in report["structures"]:
        label, volume = structure["label"], structure["milliliters"]
        print(f"{label:3} {structure['name']:{width}}  {volume:10.1f} ml")
    print(
        f"\n{counted(len(report['slices']), report['axis'] + ' slice')} in"
        f" {report['seconds']['segmenting']:.1f} s on {report['device']} ({report['precision']}),"
        f" written to {report['output']}"
    )
    if report["refinement"]:
        made = report["refinement"]
        outlines = made.get("first pass", 0) + made.get("sure, no prompt", 0)
        changed = made.get("refinement kept", 0)
        print(f"Refined: {changed} of {counted(outlines, 'outline')} (a structure in a slice)")
    if report["check_first"]:
        tenth = -(-len(report["check_first"]) // 10)
        print(f"Check first: {', '.join(map(str, report['check_first'][:tenth]))}")
    for note in report["notes"]:
        print(f"Note: {note}")
