"""Peak memory of segmenting a large volume, 512 x 512 x 300 voxels of 16 bits.

    python Testing/benchmarks/peak_memory.py --family lite-medsam
    python Testing/benchmarks/peak_memory.py --family vit_b --slices 4

The volume (a body-like ellipsoid with noise) is written to a NIfTI file first. Then all that
`samautoseg segment` does is done in this process: read the file, load a model of six structures
with the pixel branch (untrained, which takes the same memory), segment, write the labels. Printed
is the largest resident memory of the whole process, Python and torch included, and on a GPU the
most that torch allocated there. `--slices N` segments the N middle slices of the same volume, where
a ViT without a GPU would take an hour: memory does not grow with the slices.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.device import choose_device, choose_precision
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.read import read_image
from SAMAutoSegLib.images.structure import standard_structures
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume
from SAMAutoSegLib.sam.architecture import build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.fetch import fetched
from SAMAutoSegLib.sam.input_spec import InputSpec
from SAMAutoSegLib.segment.volume import segment_volume

SIZE = (512, 512, 300)
ORGANS = ["spleen", "right kidney", "left kidney", "liver", "stomach", "aorta"]


def main() -> None:
    options = parse_options()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_phantom(folder / "phantom.nii.gz")
        before = peak_gigabytes()
        started = time.monotonic()
        image = read_image(folder / "phantom.nii.gz")
        backbone = load(options.family, device)
        structures = standard_structures(ORGANS)
        model = AdaptedModel(backbone, len(structures) + 1, Adaptation(pixel_side=128)).eval()
        card = ModelCard(
            backbone.name,
            backbone.sha256,
            backbone.spec,
            Intensity.parse("ct:abdomen"),
            "axial",
            model.adaptation,
            tuple(structures),
            "untrained",
        )
        count = min(options.slices or SIZE[2], SIZE[2])
        first = (SIZE[2] - count) // 2
        result = segment_volume(
            image,
            Adapted(model, card, backbone),
            slices=range(first, first + count),
            cache=EmbeddingCache(folder / "cache"),
            progress=tell,
        )
        write_segmentation(folder / "labels.seg.nrrd", result.labels, image.grid, structures)
        seconds = time.monotonic() - started
    print(file=sys.stderr)
    precision = str(backbone.precision).removeprefix("torch.")
    print(f"{options.family}, {device}, {precision}, torch {torch.__version__}")
    print(f"{len(result.slices_done)} of {SIZE[2]} slices of 512 x 512 in {seconds:.0f} s")
    print(f"peak of the process: {peak_gigabytes():.2f} GB ({before:.2f} GB before it began)")
    if device.type == "cuda":
        print(f"peak on the GPU: {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    families = ["lite-medsam", "vit_b", "vit_l", "vit_h"]
    parser.add_argument("--family", choices=families, default="lite-medsam")
    parser.add_argument("--slices", type=int, help="the middle ones only (default: all)")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def write_phantom(path: Path) -> None:
    """Slice by slice, so that making it takes less memory than segmenting it."""
    array = np.empty(SIZE[::-1], np.int16)
    rows, columns = np.mgrid[-1:1:512j, -1:1:512j]
    rng = np.random.default_rng(0)
    for k in range(SIZE[2]):
        inside = (rows / 0.7) ** 2 + (columns / 0.9) ** 2 + ((k - 150) / 400) ** 2 < 1
        array[k] = np.where(inside, 40, -1000) + rng.integers(-30, 30, (512, 512), np.int16)
    grid = Grid(SIZE, (0.8, 0.8, 1.5), (0.0, 0.0, 0.0), np.eye(3))
    write_volume(path, Volume(array, grid, path.name))


def load(family: str, device: torch.device) -> Backbone:
    """LiteMedSAM, or a ViT at side 1024 with random weights."""
    if family == "lite-medsam":
        return load_backbone(fetched(family), device=device)
    return Backbone(
        build_parts(family, 1024),
        family=family,  # type: ignore[arg-type]
        spec=InputSpec(side=1024),
        name=family,
        device=device,
        precision=choose_precision(device),
    )


def peak_gigabytes() -> float:
    """Of this process, ever; in kilobytes on Linux, in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def tell(fraction: float, message: str) -> None:
    print(f"\r{message}", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
