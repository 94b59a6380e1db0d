"""How long a training takes while another program holds a core, with threads that wait asleep.

    python Testing/benchmarks/shared_cores.py

Twenty steps of BLO-SAM on the demo CT, in processes of their own: as the programs start them, and
as OpenMP does unless told otherwise (at most ten times as long; then it is ended). Beside them runs
a program that does nothing but hold a core. Both have the priority of a background job.
"""

import argparse
import os
import subprocess
import sys

from SAMAutoSegLib.demo import run
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.progress import silent
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.threads import let_waiting_threads_sleep

_STEPS = 20
_MOST_TIMES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", action="store_true", help="one training, as it is here")
    options = parser.parse_args()
    if options.one:
        print(train())
        return
    asleep, plain = dict(os.environ), dict(os.environ)
    before = set(os.environ)
    let_waiting_threads_sleep()
    asleep |= {name: os.environ[name] for name in set(os.environ) - before}
    alone = seconds(asleep), seconds(plain)
    print(f"alone: asleep {alone[0]:.1f} s, as OpenMP waits {alone[1]:.1f} s")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        shared = seconds(asleep)
        other = seconds(plain, _MOST_TIMES * shared)
    finally:
        busy.kill()
    told = f"{other:.1f} s" if other else f"more than {_MOST_TIMES * shared:.0f} s"
    print(f"with a core taken: asleep {shared:.1f} s, as OpenMP waits {told}")


def seconds(environment: dict[str, str], most: float | None = None) -> float:
    """Of a training; 0 if it takes longer than `most`."""
    command = [sys.executable, __file__, "--one"]
    # Loading takes some seconds more than the training that is timed.
    limit = None if most is None else most + 60
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return 0.0
    return float(done.stdout)


def train() -> float:
    """Seconds of the steps, without encoding."""
    if hasattr(os, "nice"):
        os.nice(19)
    case = run.load_case(silent)
    backbone = load_backbone(fetched(run.BASE))
    labeled = LabeledVolume(case.image, case.labels, case.labeled)
    settings = {"budget": "quick", "steps": _STEPS}
    tuned = finetune(
        [labeled],
        case.structures,
        backbone,
        plane="axial",
        settings=settings,
        cache=EmbeddingCache(),
        progress=silent,
    )
    return tuned.seconds["training"]


if __name__ == "__main__":
    main()
