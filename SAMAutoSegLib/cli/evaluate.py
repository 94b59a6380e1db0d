"""``samautoseg evaluate``: Dice, NSD and HD95 of a segmentation against a reference."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from SAMAutoSegLib.cli.wording import counted, first_of
from SAMAutoSegLib.errors import SAMAutoSegError

if TYPE_CHECKING:
    from SAMAutoSegLib.images.slices import Axis
    from SAMAutoSegLib.images.structure import Structure

    Pair = tuple[Structure, Structure | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg evaluate``."""
    parser.description = (
        "Score a segmentation against a reference on the same grid (or a part of it), per"
        " structure. Structures are matched by name where both files name them (.seg.nrrd), else by"
        " label value. Segments that overlap are scored each by itself."
    )
    parser.add_argument("prediction", type=Path, help="segmentation to score")
    parser.add_argument("reference", type=Path, help="segmentation that counts as right")
    parser.add_argument(
        "--structures",
        metavar="LIST",
        help="names or label values to score, comma-separated (default: all of the reference)",
    )
    parser.add_argument(
        "--slices",
        metavar="LIST",
        help="score these slices only, as in 3,9,15-20; distances are then taken within slices",
    )
    parser.add_argument("--axis", help="axis of --slices (default: axial)")
    parser.add_argument(
        "--nsd-tolerance",
        type=float,
        default=2.0,
        metavar="MM",
        help="distance in mm that counts as agreement of surfaces (default: 2)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Score and print."""
    if not arguments.nsd_tolerance > 0:
        raise SAMAutoSegError(f"--nsd-tolerance {arguments.nsd_tolerance}: expected more than 0 mm")

    from SAMAutoSegLib.evaluate.metrics import mean_score, score_structure
    from SAMAutoSegLib.evaluate.table import score_table
    from SAMAutoSegLib.images.read import read_layers
    from SAMAutoSegLib.images.selection import parse_slices
    from SAMAutoSegLib.images.slices import SliceStack
    from SAMAutoSegLib.images.structure import matched

    prediction = read_layers(arguments.prediction)
    reference = read_layers(arguments.reference)
    if not reference.structures:
        raise SAMAutoSegError(
            f"{arguments.reference} holds nothing but background: there is nothing to score against"
        )
    # Of the two, one may be cropped to a part of the other's voxels.
    if prediction.array[0].size > reference.array[0].size:
        reference = reference.on_grid_of(prediction)
    else:
        prediction = prediction.on_grid_of(reference)
    found = prediction.structures
    pairs = matched(reference.structures, found)
    if arguments.structures is not None:
        pairs = _chosen(arguments.structures, pairs)
    slices = None
    axis: Axis = arguments.axis or "axial"
    if arguments.slices is None and arguments.axis is not None:
        raise SAMAutoSegError(
            f"--axis {arguments.axis} without --slices: whole volumes are scored in 3D"
        )
    if arguments.slices is not None:
        count = len(SliceStack(reference.array[0], reference.grid, axis))
        slices = parse_slices(arguments.slices, count)
    scores = [
        score_structure(
            prediction.mask(partner.label if partner else 0),
            reference.mask(structure.label),
            reference.grid,
            structure,
            arguments.nsd_tolerance,
            slices,
            axis,
        )
        for structure, partner in pairs
    ]
    scored = [partner for _, partner in pairs]
    unscored = [structure.name for structure in found if structure not in scored]
    if arguments.json:
        report = {
            "prediction": str(arguments.prediction),
            "reference": str(arguments.reference),
            "nsd_tolerance_mm": arguments.nsd_tolerance,
            "slices": slices,
            "axis": axis if slices is not None else None,
            "structures": [score.to_json() for score in scores],
            "mean": mean_score(scores).to_json(),
            "not_scored": unscored,
        }
        print(json.dumps(report, indent=2))
    else:
        print(score_table(scores))
        print(f"\nNSD at {arguments.nsd_tolerance:g} mm", end="")
        print(f", on {counted(len(slices), 'slice')} only" if slices is not None else "")
        if not any(score.reference_voxels for score in scores):
            print(f"{arguments.reference} holds none of them there: nothing was to be found")
        if unscored:
            print(f"Not scored of the prediction: {first_of(unscored)}")
    return 0


def _chosen(text: str, pairs: "list[Pair]") -> "list[Pair]":
    from SAMAutoSegLib.cli.given_labels import listed

    chosen: list[Pair] = []
    for item in (item.strip() for item in text.split(",")):
        hits = [
            pair
            for pair in pairs
            if item.casefold() in (str(pair[0].label), pair[0].name.casefold())
        ]
        if not hits:
            there = listed([pair[0] for pair in pairs])
            raise SAMAutoSegError(f"structure {item!r} is not in the reference; there: {there}")
        chosen += [pair for pair in hits if pair not in chosen]
    return chosen
