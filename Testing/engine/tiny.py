"""Runs a module of the engine, as `python -m` does, where 'vit_b' is the tiny one of conftest.py.

Usage: tiny.py MODULE [ARGUMENTS]

TINY_NOISE=1 lets the process print all the time; TINY_FILE_BYTES limits the size of its files, so
that its disk seems full. Trainings write a checkpoint after every step.
"""

import os
import runpy
import sys
import threading
import time

from SAMAutoSegLib.methods import trainer
from SAMAutoSegLib.sam import architecture
from SAMAutoSegLib.sam.architecture import ViTShape


def print_on() -> None:
    while True:
        os.write(1, b"noise, and not of JSON\n")
        time.sleep(0.02)


if __name__ == "__main__":
    module = sys.argv.pop(1)
    if os.environ.get("TINY_NOISE"):
        threading.Thread(target=print_on, daemon=True).start()
        time.sleep(0.1)
    if os.environ.get("TINY_FILE_BYTES"):
        import resource

        limit = int(os.environ["TINY_FILE_BYTES"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    trainer._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    architecture.VIT_SHAPES["vit_b"] = ViTShape(dim=32, depth=2, heads=2, global_blocks=(1,))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
