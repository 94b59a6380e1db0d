"""``samautoseg demo``: the whole loop on a public CT."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg demo``."""
    parser.description = (
        "Fetch a public abdominal CT and LiteMedSAM, let five of its slices count as corrected,"
        " fine-tune BLO-SAM on them, segment the whole volume without a prompt, and compare on the"
        " slices that were never labeled."
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("samautoseg-demo"),
        help="folder for the results (default: samautoseg-demo)",
    )
    parser.add_argument("--budget", default="standard", help="quick, standard or thorough")
    parser.add_argument("--seed", type=int, help="of everything random")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--no-baselines", action="store_true", help="leave out boxes, U-Net and joint fine-tuning"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what it found."""
    from SAMAutoSegLib.files import require_writable

    require_writable(arguments.output / "report.json")

    from SAMAutoSegLib.demo.run import MEANINGS, NSD_TOLERANCE_MM, report, run_demo
    from SAMAutoSegLib.progress import console_progress

    with console_progress() as progress:
        demo = run_demo(
            arguments.output,
            device=arguments.device,
            budget=arguments.budget,
            seed=arguments.seed,
            baselines=not arguments.no_baselines,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps(report(demo), indent=2))
        return 0
    case = demo.case
    print(f"\n{case.sample.title}: learned from slices {', '.join(map(str, case.labeled))},")
    print(f"scored on the {len(case.tested)} others (NSD at {NSD_TOLERANCE_MM:g} mm)\n")
    print(demo.table())
    print()
    for method in demo.scores:
        print(f"{method}: {MEANINGS[method]}")
    print(f"{case.sample.remark}\n")
    for step, seconds in demo.seconds.items():
        print(f"{seconds:7.1f} s  {step}")
    print(f"\nResults are in {arguments.output.resolve()}: open image.nrrd and")
    print("segmentation.seg.nrrd in 3D Slicer, and look at montage.png and training-curve.png.")
    return 0
