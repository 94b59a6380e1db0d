"""What ``samautoseg segment`` tells of a segmentation: as JSON, in words, and its trace."""

from typing import TYPE_CHECKING, Any

import numpy as np

from SAMAutoSegLib.cli.wording import counted
from SAMAutoSegLib.segment.refinement import decisions
from SAMAutoSegLib.segment.uncertainty import first_to_check

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import ModelCard
    from SAMAutoSegLib.images.volume import Grid
    from SAMAutoSegLib.segment.volume import SegmentationResult


def report_of(result: "SegmentationResult", card: "ModelCard", grid: "Grid") -> dict[str, Any]:
    """What was found and what was done to it."""
    return {
        "slices": result.slices_done,
        "cancelled": result.cancelled,
        "refinement": decisions(result.trace),
        "structures": _sizes(result, card, grid),
        "uncertainty_by_slice": {
            number: round(value, 1) for number, value in result.uncertainty_by_slice.items()
        },
        "check_first": first_to_check(result.uncertainty_by_slice),
        "notes": result.notes,
    }


def trace_of(result: "SegmentationResult", card: "ModelCard") -> dict[str, Any]:
    """Every iteration of every structure of every slice."""
    names = [structure.name for structure in card.structures]
    return {
        "slices": {
            str(number): [{"structure": names[step.number - 1], **step.to_json()} for step in steps]
            for number, steps in result.trace.items()
        }
    }


def tell(report: dict[str, Any]) -> None:
    """Print the whole report in words."""
    width = max(len(structure["name"]) for structure in report["structures"])
    for structure in report["structures"]:
        label, volume = structure["label"], structure["milliliters"]
        print(f"{label:3} {structure['name']:{width}}  {volume:10.1f} ml")
    print(
        f"\n{counted(len(report['slices']), report['axis'] + ' slice')} in"
        f" {report['seconds']['segmenting']:.1f} s on {report['device']} ({report['precision']}),"
        f" written to {report['output']}"
    )
    if made := report["refinement"]:
        outlines = made.get("first pass", 0) + made.get("sure, no prompt", 0)
        changed = made.get("refinement kept", 0)
        print(f"Refined: {changed} of {counted(outlines, 'outline')} (a structure in a slice)")
    if report["check_first"]:
        tenth = -(-len(report["check_first"]) // 10)
        print(f"Check first: {', '.join(map(str, report['check_first'][:tenth]))}")
    for note in report["notes"]:
        print(f"Note: {note}")


def _sizes(result: "SegmentationResult", card: "ModelCard", grid: "Grid") -> list[dict[str, Any]]:
    sizes = []
    for structure in card.structures:
        voxels = int(np.count_nonzero(result.labels == structure.label))
        milliliters = round(voxels * grid.voxel_volume_mm3 / 1000, 3)
        sizes.append(
            {
                "name": structure.name,
                "label": structure.label,
                "voxels": voxels,
                "milliliters": milliliters,
            }
        )
    return sizes
