"""Runs a module of the engine, as `python -m` does, where 'vit_b' is the tiny one of conftest.py.

Usage: tiny.py MODULE [ARGUMENTS]
"""

import runpy
import sys

from SAMAutoSegLib.sam import architecture
from SAMAutoSegLib.sam.architecture import ViTShape

if __name__ == "__main__":
    module = sys.argv.pop(1)
    architecture.VIT_SHAPES["vit_b"] = ViTShape(dim=32, depth=2, heads=2, global_blocks=(1,))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
