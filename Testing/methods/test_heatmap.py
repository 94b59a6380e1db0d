"""Instances found in images with many blobs, by a head on a tiny SAM."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard, load_adapted, save_adapted
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.heatmap_head import HeatmapOutput, propose
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.methods.heatmap import Heatmap, HeatmapSettings, instance_losses
from SAMAutoSegLib.methods.instance_targets import InstanceTargets
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.methods.trainer import train
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet, build_training_set
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.architecture import ViTShape, build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.input_spec import InputSpec

SIDE = 128
NODULE = structure_named("nodule", 1)


@pytest.fixture
def backbone(tiny_vit_b: ViTShape) -> Backbone:
    """A tiny SAM without random position tables and biases, which would drown what it is shown."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = build_parts("vit_b", SIDE)
    return Backbone(parts, family="vit_b", spec=InputSpec(side=SIDE))


def test_losses_are_as_computed_by_hand() -> None:
    # A center beside a cell of its Gaussian, a cell of nothing, and one outside of the slice.
    heat = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    inside = torch.tensor([[1, 0], [0, IGNORED]], dtype=torch.uint8)
    weight = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    target = InstanceTargets(heat, torch.ones(4, 2, 2), weight, inside, count=2)
    reach = torch.ones(1, 4, 2, 2)
    reach[0, :, 0, 1] = 2.0  # four times as large as the true box
    reach[0, :, 1] = 9.0  # nothing is asked there
    chances = torch.tensor([[0.9, 0.8], [0.6, 0.5]])  # of the background
    shares = torch.stack([chances, 1 - chances])[None]
    output = HeatmapOutput(torch.zeros(1, 1, 2, 2), shares.log(), reach)
    centers, boxes, foreground = instance_losses(output, [target])
    half = np.log(2)
    assert centers.item() == pytest.approx(half * (0.25 + 0.5**4 * 0.25 + 0.25) / 2)
    assert boxes.item() == pytest.approx((0 * 1 + 0.75 * 0.5) / 1.5)
    background = -(np.log(0.8) + np.log(0.6)) / 2  # of two pixels, and as much as that of one
    assert foreground.item() == pytest.approx((background - np.log(0.1)) / 2)


def blobs(count: int, seed: int) -> LabeledVolume:
    """Slices with four bright discs each, none of which touches another."""
    rng = np.random.default_rng(seed)
    image = rng.normal(110, 8, (count, SIDE, SIDE))
    labels = np.zeros(image.shape, np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for k in range(count):
        placed: list[tuple[np.ndarray, float]] = []
        while len(placed) < 4:
            center, radius = rng.uniform(16, SIDE - 16, 2), rng.uniform(9, 14)
            if all(np.hypot(*(center - c)) > radius + r + 5 for c, r in placed):
                placed.append((center, radius))
                labels[k][np.hypot(rows - center[0], columns - center[1]) < radius] = 1
    image[labels == 1] += 80
    grid = Grid((SIDE, SIDE, count), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), np.eye(3))
    scan = Volume(np.clip(image, 0, 255).astype(np.int16), grid, "blobs")
    return LabeledVolume(scan, Volume(labels, grid, "labels"), tuple(range(count)))


def samples(backbone: Backbone, count: int, seed: int) -> TrainingSet:
    volume, intensity = blobs(count, seed), Intensity("window", 0, 255)
    return build_training_set([volume], [NODULE], backbone, plane="axial", intensity=intensity)


def new_model(backbone: Backbone, settings: HeatmapSettings) -> AdaptedModel:
    torch.manual_seed(0)
    return AdaptedModel(backbone, 2, Heatmap.adaptation(settings, backbone))


@dataclass
class Counts:
    """Blobs, points, and blobs with a point in them."""

    blobs: int = 0
    points: int = 0
    hit: int = 0


def count_hits(model: AdaptedModel, tests: TrainingSet) -> Counts:
    counts = Counts()
    with torch.inference_mode():
        proposals = propose(model.decoder.head(tests.features), 0.3, 64)
    for found, reference in zip(proposals, tests.references, strict=True):
        parts, count = ndimage.label(reference)
        at = [parts[int(y * SIDE), int(x * SIDE)] for x, y in found.points.tolist()]
        counts.blobs += count
        counts.points += len(at)
        counts.hit += len(set(at) - {0})
    return counts


def test_nearly_every_blob_of_new_images_gets_one_point_and_nothing_else_does(
    backbone: Backbone,
) -> None:
    settings = HeatmapSettings(steps=150, batch=2, learning_rate=5e-3)
    model = new_model(backbone, settings)
    result = train(Heatmap, model, samples(backbone, 8, seed=0), settings)
    assert result.history[-1]["training_loss"] < 0.3 * result.history[0]["training_loss"]
    counts = count_hits(model, samples(backbone, 10, seed=1))
    assert counts.blobs == 40
    assert counts.hit / counts.blobs >= 0.9
    assert counts.hit / counts.points >= 0.9


def test_boxes_fit_the_blobs_they_were_learned_from(backbone: Backbone) -> None:
    settings = HeatmapSettings(steps=100, batch=2, learning_rate=5e-3, feature_dropout=0.0)
    model, learned = new_model(backbone, settings), samples(backbone, 2, seed=0)
    train(Heatmap, model, learned, settings)
    with torch.inference_mode():
        proposals = propose(model.decoder.head(learned.features), 0.3, 64)
    overlaps = []
    for found, reference in zip(proposals, learned.references, strict=True):
        for rows, columns in ndimage.find_objects(ndimage.label(reference)[0]):
            true = np.array([columns.start, rows.start, columns.stop, rows.stop])
            overlaps.append(max(overlap(true, box) for box in SIDE * found.boxes.numpy()))
    assert len(overlaps) == 8 and np.mean(overlaps) > 0.75


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.clip(high - low, 0, None))
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return float(common / (sum(areas) - common))


def test_only_the_head_is_learned(backbone: Backbone) -> None:
    settings = HeatmapSettings(steps=5)
    model = new_model(backbone, settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = Heatmap(model, samples(backbone, 2, seed=0), settings)
    for number in range(2):
        losses = method.step(number)
        whole = 0.8 * (losses["center_loss"] + losses["box_loss"]) + 0.2 * losses["inside_loss"]
        assert losses["training_loss"] == pytest.approx(whole)
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == set(model.learned_state())
    assert all(name.startswith("decoder.head.") for name in changed)
    assert sum(values.numel() for values in model.learned_state().values()) < 150_000


def test_a_slice_without_an_instance_can_be_learned_from(backbone: Backbone) -> None:
    settings = HeatmapSettings(steps=5, batch=1)
    some = samples(backbone, 2, seed=0)
    some.targets[0] = 0
    method = Heatmap(new_model(backbone, settings), some, settings)
    losses = [method.step(number) for number in range(2)]
    assert min(entry["box_loss"] for entry in losses) == 0
    assert all(np.isfinite(entry["training_loss"]) for entry in losses)


def test_the_method_is_found_by_name_and_refuses_other_heads(backbone: Backbone) -> None:
    assert method_named("heatmap") is Heatmap
    model = AdaptedModel(backbone, 2, Adaptation())
    with pytest.raises(SAMAutoSegError, match="cannot train the head class-tokens: expected heat"):
        Heatmap(model, samples(backbone, 1, seed=0), HeatmapSettings())


@pytest.mark.parametrize(
    ("prompt", "takes_points", "head"),
    [
        ("auto", True, "heatmap-point"),
        ("auto", False, "heatmap-box"),
        ("auto", None, "heatmap-box"),
        ("box", True, "heatmap-box"),
        ("point", False, "heatmap-point"),
    ],
)
def test_points_are_given_to_backbones_that_are_known_to_take_them(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, prompt, takes_points, head
) -> None:
    entry = None if takes_points is None else SimpleNamespace(takes_points=takes_points)
    monkeypatch.setattr(catalog, "find_by_sha256", lambda digest: entry)
    assert Heatmap.adaptation(HeatmapSettings(prompt=prompt), backbone).head == head


def test_models_trained_with_boxes_only_are_marked_in_the_catalogue() -> None:
    boxes_only = [entry.name for entry in catalog.entries() if not entry.takes_points]
    assert boxes_only == ["lite-medsam", "medsam"]


def test_an_unknown_prompt_is_refused() -> None:
    with pytest.raises(SAMAutoSegError, match="setting prompt=circle: expected auto or box or"):
        HeatmapSettings(prompt="circle")


def test_a_model_comes_back_from_its_file(tiny_file: Path, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_file, side=SIDE, precision=torch.float32)
    model = new_model(backbone, HeatmapSettings(prompt="point")).eval()
    with torch.no_grad():
        model.decoder.head.out.bias[0] = 3.0  # a center wherever the noise has a maximum
    card = ModelCard(
        backbone="tiny",
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=Intensity("window", 0, 255),
        plane="axial",
        adaptation=model.adaptation,
        structures=(NODULE,),
        method="heatmap",
    )
    file = tmp_path / "nodules.safetensors"
    save_adapted(file, Adapted(model, card, backbone))
    loaded = load_adapted(file, base=tiny_file, precision=torch.float32).model
    features = samples(backbone, 1, seed=0).features
    with torch.inference_mode():
        logits = model(features)
        assert logits[0, 1].max() > -10
        assert torch.equal(loaded(features), logits)


def test_blocks_of_the_encoder_are_not_adapted_by_it() -> None:
    with pytest.raises(SAMAutoSegError, match="encoder_blocks 1: expected 0"):
        Adaptation(lora_rank=0, head="heatmap-box", encoder_blocks=1)
