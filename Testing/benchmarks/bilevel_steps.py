"""Seconds and memory of a bi-level step, beside the authors' program on the same images.

    python Testing/benchmarks/bilevel_steps.py --reference FOLDER

FOLDER is a checkout of the authors' BLO-SAM (github.com/importZL/BLO-SAM). One step is one of the
weights on a slice of D1 and one of the prompt on a slice of D2, as published: ViT-B at side 256,
float32, one structure, AdamW; the second order by finite differences. Weights are random, which
changes no time. The authors' program encodes both slices anew at every step, ours meets each once,
before the steps. Every combination runs in a process of its own; memory is what that held at most
during the steps beyond what it held before them (on Linux). Without a GPU the authors' calls of
cuda() are made to do nothing, and the modules that they import for logging and files are empty.
Both programs get all cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.methods.blo_sam import BLOSAM
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.sam.architecture import build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import InputSpec

SIDE = 256
PAGE = 4096
ORDERS = {"first": "first", "second": "finite-difference"}
# The reference imports these for logging, files and masks of everything.
NOT_NEEDED = (
    *("icecream", "wandb", "medpy", "medpy.metric", "imageio", "einops", "torchvision"),
    *("torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms"),
    "torchvision.transforms.functional",
)

Step = Callable[[int], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--one", nargs=2, metavar=("PROGRAM", "ORDER"), help="for its own process")
    options = parser.parse_args()
    if options.one:
        program, order = options.one
        step = ours(order) if program == "ours" else reference(options.reference, order)
        print(json.dumps(measured(step, options.steps)))
        return
    found = {}
    for order in ORDERS:
        for program in ("reference", "ours"):
            command = [sys.executable, __file__, "--reference", str(options.reference)]
            command += ["--steps", str(options.steps), "--one", program, order]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[order, program] = json.loads(lines.splitlines()[-1])
            print(f"{order} order, {program}: {json.dumps(found[order, program])}", flush=True)
        faster = found[order, "reference"]["seconds"] / found[order, "ours"]["seconds"]
        print(f"{order} order: {faster:.1f} times as fast as the reference")
    more = found["second", "ours"]["mib"] / found["first", "ours"]["mib"]
    print(f"second order takes {more:.2f} times the memory of the first")


def measured(step: Step, count: int) -> dict[str, float]:
    """Median seconds of a step, and MiB held at most beyond those before; the first not counted."""
    before, peak, done = resident_mib(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    seconds = []
    try:
        for number in range(count + 1):
            started = time.perf_counter()
            step(number)
            seconds.append(time.perf_counter() - started)
    finally:
        done.set()
        thread.join()
    return {"seconds": round(float(np.median(seconds[1:])), 4), "mib": round(peak - before)}


def resident_mib() -> float:
    """What this process holds; on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE / 2**20


def slices() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images [2, 3, SIDE, SIDE] from 0 to 1 and a disk in each, [2, SIDE / 4, SIDE / 4]."""
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    row, column = torch.meshgrid(*[torch.arange(SIDE // 4)] * 2, indexing="ij")
    disks = [(row - 30) ** 2 + (column - x) ** 2 < 15**2 for x in (25, 35)]
    return images, torch.stack(disks).to(torch.uint8)


def ours(order: str) -> Step:
    torch.manual_seed(0)
    spec = InputSpec(SIDE, normalization="unit", aspect="stretch")
    backbone = Backbone(build_parts("vit_b", SIDE), family="vit_b", spec=spec)
    _, targets = slices()
    # Made up, because encoding is no part of a step and would leave memory behind.
    features = torch.randn(2, 256, SIDE // 16, SIDE // 16)
    samples = TrainingSet(
        features, targets, tuple(t.numpy() for t in targets), ((1.0, 1.0),) * 2, (0, 1)
    )
    settings = make_settings(
        BLOSAM.settings_type, {"recipe": "published", "order": ORDERS[order]}, len(samples)
    )
    model = AdaptedModel(backbone, 2, Adaptation()).train()
    return BLOSAM(model, samples, settings).step


def reference(folder: Path, order: str) -> Step:
    """The authors' loop of `trainer.py`, without its logging."""
    for name in NOT_NEEDED:
        sys.modules.setdefault(name, Anything(name))
    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self  # type: ignore[assignment, method-assign]
    sys.path.insert(0, str(folder))
    from prompt import Prompt, calc_loss  # type: ignore[import-not-found]
    from sam_lora_mask_decoder import LoRA_Sam  # type: ignore[import-not-found]
    from segment_anything import sam_model_registry
    from utils import DiceLoss  # type: ignore[import-not-found]

    torch.manual_seed(0)
    sam, _ = sam_model_registry["vit_b"](
        image_size=SIDE, num_classes=1, pixel_mean=[0, 0, 0], pixel_std=[1, 1, 1]
    )
    net = LoRA_Sam(sam, 4).cuda().train()
    arguments = SimpleNamespace(
        num_classes=1,
        img_size=SIDE,
        dice_param=0.8,
        base_lr=5e-3,
        prompt_base_lr=5e-3,
        weight_decay=0.1,
        prompt_weight_decay=0.1,
    )
    prompt = Prompt(model=net, args=arguments, max_iterations=100)
    weights = prompt._get_model_parameters(net)
    optimizer = torch.optim.AdamW(weights, lr=5e-3, betas=(0.9, 0.999), weight_decay=0.1)
    images, targets = slices()
    one, other = ({"image": images[n : n + 1], "low_res_label": targets[n : n + 1]} for n in (0, 1))
    entropy, dice = torch.nn.CrossEntropyLoss(), DiceLoss(2)

    def step(number: int) -> None:
        outputs = net(one["image"].cuda(), False, SIDE)
        loss = calc_loss(outputs, one["low_res_label"].cuda(), entropy, dice, 0.8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        prompt.step(one, other, 5e-3, optimizer, order == "second", number)

    return step


class Anything(ModuleType):
    """A module that has every name, for imports that nothing is done with."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)


if __name__ == "__main__":
    main()
