from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.methods.losses import IGNORED, mean_dice
from SAMAutoSegLib.methods.training_set import (
    LabeledVolume,
    TrainingSet,
    build_training_set,
    low_res_target,
)
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.sam.input_spec import Aspect, InputSpec, Padding

Build = Callable[..., LabeledVolume]


@pytest.mark.parametrize("padding", ["bottom_right", "center"])
@pytest.mark.parametrize("aspect", ["pixel", "stretch"])
@pytest.mark.parametrize("shape", [(113, 257), (301, 90), (97, 97)])
def test_a_target_lies_where_its_logits_are_put_back(
    shape: tuple[int, int], aspect: Aspect, padding: Padding
) -> None:
    spec = InputSpec(side=256, padding=padding, aspect=aspect)
    reference = np.zeros(shape, np.uint8)
    top, left = shape[0] // 4, shape[1] // 2
    reference[top : top + shape[0] // 3, left : left + shape[1] // 3] = 1
    target = low_res_target(reference, spec, 64)
    assert target.shape == (64, 64) and target.dtype == torch.uint8

    place = spec.placement(shape)
    covered = round(place.height / 4) * round(place.width / 4)
    assert (target != IGNORED).sum().item() == pytest.approx(covered, rel=0.1)

    perfect = torch.stack([20.0 * (target != 1), 20.0 * (target == 1)])
    back = spec.logits_to_slice(perfect, shape).argmax(0)
    assert mean_dice(back, torch.from_numpy(reference), 2) > 0.94
    # A shift is what a share of common pixels hides best: less than half a low-res pixel.
    for axis, size in ((0, place.height), (1, place.width)):
        pixel = 4 * shape[axis] / size
        wanted = reference.nonzero()[axis].mean()
        assert back.numpy().nonzero()[axis].mean() == pytest.approx(wanted, abs=0.5 * pixel)


@pytest.mark.parametrize(("input_side", "side"), [(256, 256), (1024, 256), (512, 128), (256, 64)])
@pytest.mark.parametrize("size", [256, 512, 640])
def test_a_target_is_neither_shifted_nor_larger_nor_smaller(
    size: int, input_side: int, side: int
) -> None:
    spec = InputSpec(side=input_side)
    rows, columns = np.mgrid[:size, :size]
    places, areas = [], []
    for number in range(8):
        center = size * (0.4 + 0.2 * np.random.default_rng(number).random(2))
        inside = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < (0.15 * size) ** 2
        target = low_res_target(inside.astype(np.uint8), spec, side) == 1
        wanted = (np.argwhere(inside) + 0.5) * side / size - 0.5
        places.append(np.argwhere(target.numpy()).mean(0) - wanted.mean(0))
        areas.append(target.sum() * (size / side) ** 2 / inside.sum())
    # In low-res pixels; with the nearest pixel it would be a quarter where the size is halved.
    assert np.abs(np.mean(places, axis=0)).max() < 0.1
    assert np.mean(areas) == pytest.approx(1, abs=0.02)


def test_slices_that_are_too_thin_to_be_drawn_are_refused() -> None:
    spec = InputSpec(side=1024)
    for shape in ((1, 512), (1200, 2)):
        with pytest.raises(SAMAutoSegError, match=f"slices of {shape[0]} x {shape[1]} pixels are"):
            low_res_target(np.ones(shape, np.uint8), spec, 256)
    assert low_res_target(np.ones((2, 512), np.uint8), spec, 256).eq(1).any()


def test_features_targets_and_references_belong_together(
    samples: Callable[..., TrainingSet], labeled: Build
) -> None:
    built = samples((6, 1))
    assert len(built) == 2 and built.features.shape == (2, 256, 8, 8)
    for n, k in enumerate((6, 1)):
        assert np.array_equal(built.references[n] > 0, labeled().labels.array[k] > 0)
        whole = built.targets[n].numpy()
        assert abs((whole == 1).mean() - (built.references[n] == 1).mean() * 40 / 48) < 0.02
    alone = samples((1,))
    torch.testing.assert_close(alone.features[0], built.features[1])


def test_neighbors_are_grouped_within_a_volume_and_never_across(
    samples: Callable[..., TrainingSet],
) -> None:
    assert samples((1, 2, 5), (2, 3), (0,)).groups == (0, 0, 1, 2, 2, 3)


def test_slices_that_are_not_named_are_not_looked_at(
    samples: Callable[..., TrainingSet],
    labeled: Build,
    structures: list[Structure],
    tiny_backbone: Callable[..., Backbone],
) -> None:
    volume = labeled((2, 4))
    volume.image.array[3:4] += 50
    volume.labels.array[3:4] = 0
    changed = build([volume], structures, tiny_backbone())
    assert changed.fingerprint() == samples((2, 4)).fingerprint()


def test_the_fingerprint_tells_images_and_labels_apart(
    samples: Callable[..., TrainingSet],
    labeled: Build,
    structures: list[Structure],
    tiny_backbone: Callable[..., Backbone],
) -> None:
    before = samples((2, 4)).fingerprint()
    assert samples((4, 2)).fingerprint() != before
    image, labels = labeled((2, 4)), labeled((2, 4))
    image.image.array[2, 10:20] += 50
    labels.labels.array[2, 10:20] = 0
    for volume in (image, labels):
        assert build([volume], structures, tiny_backbone()).fingerprint() != before


def test_the_fingerprint_tells_what_only_the_pixel_branch_sees(
    samples: Callable[..., TrainingSet],
) -> None:
    made = samples((2, 4))
    corrected = made.references[0].copy()
    corrected[5, 5] = 2
    for changed in (
        replace(made, references=(corrected, *made.references[1:])),
        replace(made, pixel_spacings=((1.0, 2.0),) * 2),
        replace(made, groups=(0, 0)),
        replace(made, owners=(0, 1)),
    ):
        assert changed.fingerprint() != made.fingerprint()


def test_kept_embeddings_train_the_same(
    labeled: Build,
    structures: list[Structure],
    tiny_backbone: Callable[..., Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny_backbone(precision=torch.bfloat16)
    cache = EmbeddingCache(tmp_path)
    first = build([labeled((2, 4))], structures, backbone, cache)
    monkeypatch.setattr(Backbone, "encode", None)
    again = build([labeled((2, 4))], structures, backbone, cache)
    assert first.features.dtype == torch.bfloat16
    assert again.fingerprint() == first.fingerprint()


def build(
    volumes: Sequence[LabeledVolume],
    structures: Sequence[Structure],
    backbone: Backbone,
    cache: EmbeddingCache | None = None,
) -> TrainingSet:
    from SAMAutoSegLib.images.intensity import Intensity

    intensity = Intensity("window", 0, 255)
    return build_training_set(
        volumes, structures, backbone, plane="axial", intensity=intensity, cache=cache
    )


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ((), "no labeled slice"),
        ((2, 9), "slice 9 is out of range: scan0.nii.gz has axial slices 0 to 8"),
        ((-1,), "slice -1 is out of range"),
    ],
)
def test_slices_that_are_not_there_are_refused(
    labeled: Build,
    structures: list[Structure],
    tiny_backbone: Callable[..., Backbone],
    slices: tuple[int, ...],
    said: str,
) -> None:
    with pytest.raises(SAMAutoSegError, match=said):
        build([labeled(slices)], structures, tiny_backbone())


def test_slices_without_a_voxel_to_learn_are_refused(
    labeled: Build, tiny_backbone: Callable[..., Backbone]
) -> None:
    wanted = [structure_named("liver", 5), structure_named("spleen", 9)]
    with pytest.raises(SAMAutoSegError, match="none of the 2 labeled slices .* liver, spleen"):
        build([labeled((2, 4))], wanted, tiny_backbone()).require_structures()


def test_labels_on_another_grid_are_refused(
    labeled: Build, structures: list[Structure], tiny_backbone: Callable[..., Backbone]
) -> None:
    volume = labeled()
    grid = volume.labels.grid
    moved = Volume(
        volume.labels.array, Grid(grid.size, (1.0, 1.0, 3.0), grid.origin, grid.direction), "moved"
    )
    with pytest.raises(SAMAutoSegError, match="spacing"):
        build([replace(volume, labels=moved)], structures, tiny_backbone())
