"""``samautoseg convert``: a model of BLO-SAM, MetaTune or SAMed becomes one of this program."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg convert``."""
    parser.description = (
        "Convert a model that BLO-SAM, MetaTune or SAMed has trained, so that it can be used here."
        " The file is recognized by its tensors; what it does not tell is to be named."
    )
    parser.add_argument("file", type=Path, help="the program's .pth file")
    parser.add_argument(
        "--base", required=True, metavar="MODEL", help="the SAM it was trained on: a file or a name"
    )
    parser.add_argument("--side", type=int, help="input side (default: 256, of SAMed 512)")
    parser.add_argument(
        "--structures", metavar="LIST", help="names in the order of the classes, comma-separated"
    )
    parser.add_argument(
        "--intensity",
        default="percentile:0.5,99.5",
        metavar="HOW",
        help="gray levels: ct:abdomen, LOW,HIGH or percentile:LOW,HIGH (default: %(default)s)",
    )
    parser.add_argument("--axis", default="axial", choices=("axial", "coronal", "sagittal"))
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="model file to write (.safetensors)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Convert, write, tell what was found."""
    from SAMAutoSegLib.adapt.adapted_file import save_adapted
    from SAMAutoSegLib.adapt.foreign_checkpoint import import_adapted
    from SAMAutoSegLib.files import require_apart, require_writable
    from SAMAutoSegLib.images.intensity import Intensity

    require_apart([arguments.output], [arguments.file, Path(arguments.base)])
    require_writable(arguments.output)
    names = [name.strip() for name in (arguments.structures or "").split(",") if name.strip()]
    adapted, report = import_adapted(
        arguments.file,
        arguments.base,
        intensity=Intensity.parse(arguments.intensity),
        plane=arguments.axis,
        structures=names,
        side=arguments.side,
        device="cpu",
    )
    save_adapted(arguments.output, adapted)
    if arguments.json:
        print(json.dumps({"path": str(arguments.output), "report": report}))
    else:
        print("\n".join([*report, f"written: {arguments.output}"]))
    return 0
