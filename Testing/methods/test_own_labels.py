from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.cleanup import remove_parts
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.methods import own_labels
from SAMAutoSegLib.methods.method import draw
from SAMAutoSegLib.methods.own_labels import first_part_of, label_other_slices
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet
from SAMAutoSegLib.sam.backbone import Backbone

from .conftest import DISC, QUICK, Tune, same, stop_at

HALF = {**QUICK, "steps": 8, "own_labels": 0.5}


@pytest.fixture
def label(
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    structures: list[Structure],
    intensity: Intensity,
    tune: Tune,
) -> Callable[..., TrainingSet | None]:
    """Labels what is not labeled by a model that knows the volume well."""
    model = tune(labeled((0, 2, 4, 6, 8)), settings={"steps": 60, "batch": 2, "patience": 0}).model

    def run(
        *volumes: LabeledVolume, never: list[LabeledVolume] | None = None
    ) -> TrainingSet | None:
        return label_other_slices(
            volumes,
            never or [],
            structures,
            model,
            tiny_backbone(),
            plane="axial",
            intensity=intensity,
        )

    return run


def test_the_model_labels_slices_that_are_neither_labeled_nor_held_out(
    label: Callable[..., TrainingSet | None], labeled: Callable[..., LabeledVolume]
) -> None:
    volume = labeled((0, 2))
    found = label(volume, labeled((1,), seed=1), never=[replace(volume, slices=(3, 4))])
    assert found is not None and found.groups == (0,) * 5 + (1,) * 8
    truth = volume.labels.array
    for reference, number in zip(found.references, (1, 5, 6, 7, 8), strict=False):
        for class_, value in ((1, 3), (2, 7)):
            a, b = reference == class_, truth[number] == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.5
    assert label(replace(volume, slices=tuple(range(9)))) is None


def test_of_every_structure_only_the_largest_part_in_3d_is_believed(
    label: Callable[..., TrainingSet | None],
    labeled: Callable[..., LabeledVolume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def watched(labels: np.ndarray, *rest: Any) -> None:
        labels[7, :3, :3] = 1  # far from the disc
        seen.append(labels.copy())
        remove_parts(labels, *rest)

    monkeypatch.setattr(own_labels, "remove_parts", watched)
    found = label(labeled((0,)))
    assert found is not None and seen[0].shape == (9, 48, 40)
    assert np.array_equal(seen[0][0] == 1, labeled().labels.array[0] == DISC)  # what is known
    assert not found.references[6][:3, :3].any() and (found.references[6] == 1).any()
    assert not found.targets[6][:4, :4].any()


def test_long_volumes_give_slices_at_equal_distances(
    label: Callable[..., TrainingSet | None],
    labeled: Callable[..., LabeledVolume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(own_labels, "MOST_SLICES", 4)
        found = label(labeled((0,)))
    all_ = label(labeled((0,)))
    assert found is not None and all_ is not None and len(all_) == 8
    assert torch.allclose(found.features, all_.features[::2], atol=1e-4)


def test_half_of_a_batch_is_the_models_own() -> None:
    for batch, expected in ((2, 1), (3, 1), (4, 2)):
        settings = Settings(batch=batch)
        for number in range(6):
            chosen = draw(number, range(4), settings, own=range(4, 30))
            assert len(chosen) == batch and sum(n >= 4 for n in chosen) == expected
    single = [draw(n, range(4), Settings(batch=1), own=range(4, 30))[0] for n in range(8)]
    assert [n >= 4 for n in single] == [False, True] * 4
    assert sorted(single[::2]) == [0, 1, 2, 3] and len(set(single[1::2])) == 4


@pytest.mark.parametrize("method", ["blo-sam", "joint"])
def test_other_slices_change_what_is_learned_and_held_out_ones_do_not(
    tune: Tune, labeled: Callable[..., LabeledVolume], method: str
) -> None:
    volume = labeled((2, 5))
    wanted = tune(volume, method=method, settings=HALF, held_out=[replace(volume, slices=(7,))])
    assert [entry["step"] for entry in wanted.result.history] == list(range(1, 9))
    assert wanted.result.steps == 8 and wanted.card.settings["own_labels"] == 0.5
    assert not same(tune(volume, method=method, settings={**QUICK, "steps": 8}), wanted)
    noise = np.random.default_rng(3).integers(0, 256, volume.image.array[0].shape)
    for numbers, unchanged in (((7,), True), ((0, 1, 3, 4, 6, 8), False)):
        image = volume.image.array.copy()
        image[list(numbers)] = noise
        other = replace(volume, image=replace(volume.image, array=image))
        held_out = [replace(other, slices=(7,))]
        found = tune(other, method=method, settings=HALF, held_out=held_out)
        assert same(found, wanted) == unchanged


@pytest.mark.parametrize("when", ["training: step 3", "labeling", "second"])
@pytest.mark.parametrize("method", ["blo-sam", "joint"])
def test_an_interrupted_training_goes_on_in_either_part(
    tune: Tune, tmp_path: Path, method: str, when: str
) -> None:
    wanted = tune(method=method, settings=HALF)
    checkpoint = tmp_path / "model.training"
    labels = 0

    def progress(fraction: float, message: str) -> None:
        nonlocal labels
        labels += message.startswith("labeling")
        if when == "second":
            if labels:
                stop_at("training: step 2")(fraction, message)
        else:
            stop_at(when)(fraction, message)

    options = {"method": method, "settings": HALF, "checkpoint": checkpoint}
    if when == "labeling":
        with pytest.raises(Cancelled):
            tune(**options, progress=progress)
    else:
        assert tune(**options, progress=progress).result.stopped == "cancelled"
    assert first_part_of(checkpoint).exists() == (when != "training: step 3")
    torch.manual_seed(99)
    found = tune(**options, resume=True)
    assert same(found, wanted) and found.result.history == wanted.result.history
    assert found.result.best_step == wanted.result.best_step
    assert list(tmp_path.iterdir()) == []


def test_a_first_part_of_another_training_is_refused(tune: Tune, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.training"
    with pytest.raises(Cancelled):
        tune(settings=HALF, checkpoint=checkpoint, progress=stop_at("labeling"))
    with pytest.raises(SAMAutoSegError, match="other settings"):
        tune(settings={**HALF, "steps": 12}, checkpoint=checkpoint, resume=True)


def test_where_all_slices_are_labeled_the_training_says_so(
    tune: Tune, labeled: Callable[..., LabeledVolume]
) -> None:
    tuned = tune(labeled(tuple(range(9))), settings=HALF)
    assert tuned.result.steps == 8
    assert any("labeled none itself" in note for note in tuned.result.notes)
