"""A source with a pixel branch: both are judged together, and weak labels teach the branch too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.adapt.adapted_model import PIXELS, AdaptedModel
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.evaluate.metrics import mean_score, score_volume
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels
from SAMAutoSegLib.methods import adapt_source as whole
from SAMAutoSegLib.methods import branch_adaptation as module
from SAMAutoSegLib.methods.adapt_source import adapt_source
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.tuned_model import FineTuned
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume
from SAMAutoSegLib.methods.we_sam import WeSAM
from SAMAutoSegLib.segment.volume import segment_volume

from .conftest import BAR, DISC, Tune, same

Labeled = Callable[..., LabeledVolume]

NUMBERS = (0, 2, 4, 6)
SETTINGS: dict[str, Any] = {"steps": 60, "batch": 2, "views": 1, "encoder_blocks": 1}
FEW = {**SETTINGS, "steps": 3}


def painted(volume: LabeledVolume) -> WeakLabels:
    """Every structure painted over, a little too wide."""
    hints: dict[int, dict[int, Hint]] = {}
    for n in NUMBERS:
        for value in (DISC, BAR):
            paint = ndimage.binary_dilation(volume.labels.array[n] == value)
            hints.setdefault(n, {})[value] = Hint(coarse=paint)
    return WeakLabels("axial", hints)


def on_another_scanner(volume: LabeledVolume) -> LabeledVolume:
    """The volume with less contrast, noise, and a coil on one side."""
    rng = np.random.default_rng(5)
    array = 90 + 0.4 * (volume.image.array - 110.0) + rng.normal(0, 6, volume.image.array.shape)
    array = array * np.linspace(0.6, 1.4, array.shape[2])
    return replace(volume, image=replace(volume.image, array=array.astype(np.int16)))


@pytest.fixture(scope="module")
def known() -> dict[str, Adapted]:
    return {}


@pytest.fixture
def source(tune: Tune, labeled: Labeled, known: dict[str, Adapted]) -> Adapted:
    """A model with a branch that has learned two slices; no test changes it."""
    if "source" not in known:
        settings = {"steps": 40, "pixel_steps": 2, "views": 1, "batch": 2}
        known["source"] = tune(labeled((2, 5)), settings=settings).adapted
    return known["source"]


@pytest.fixture
def target(labeled: Labeled) -> LabeledVolume:
    return on_another_scanner(labeled(NUMBERS, 1))


def adapt(
    source: Adapted, target: LabeledVolume, weak: WeakLabels | None = None, **options: Any
) -> FineTuned:
    known = UnlabeledVolume(target.image, NUMBERS, weak or painted(target))
    return adapt_source([known], source, **{"settings": FEW, **options})


def branch_of(adapted: Adapted) -> dict[str, torch.Tensor]:
    state = adapted.model.learned_state()
    return {name: value for name, value in state.items() if name.startswith(PIXELS)}


def dice(adapted: Adapted, volume: LabeledVolume) -> float:
    found = segment_volume(volume.image, adapted).labels
    grid, structures = volume.labels.grid, adapted.card.structures
    return mean_score(score_volume(found, volume.labels.array, grid, structures)).dice


def test_with_rough_paint_on_another_scanner_it_finds_more_there_than_before(
    source: Adapted, target: LabeledVolume
) -> None:
    tuned = adapt(source, target, settings=SETTINGS)
    assert any(note.startswith("pixel branch adapted: ") for note in tuned.result.notes)
    alone = adapt(source, target, settings={**SETTINGS, "pixel_steps": 0})
    assert same(branch_of(alone.adapted), branch_of(source))
    assert not any(note.startswith("pixel branch") for note in alone.result.notes)
    gained = dice(tuned.adapted, target) - dice(alone.adapted, target)
    assert gained > 0.02
    assert tuned.adapted.card.adaptation.pixel_weight == source.card.adaptation.pixel_weight


def test_without_weak_labels_it_stays_as_it_is(source: Adapted, target: LabeledVolume) -> None:
    tuned = adapt(source, target, WeakLabels("axial", {}))
    assert same(branch_of(tuned.adapted), branch_of(source))
    assert not any("pixel branch" in note for note in tuned.result.notes)


def test_an_adapted_sam_that_the_branch_disagrees_with_gives_way(
    source: Adapted, target: LabeledVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the SAM alone can tell it may have become better, and both together worse."""

    def concluded(self: Any, model: AdaptedModel) -> list[str]:
        with torch.no_grad():
            for weight in model.decoder.parameters():
                weight.normal_(std=2.0)
        return ["adapted: so it says"]

    monkeypatch.setattr(WeSAM, "concluded", concluded)
    for weak in (None, WeakLabels("axial", {})):
        tuned = adapt(source, target, weak)
        learned, before = tuned.adapted.model.learned_state(), source.model.learned_state()
        of_sam = [name for name in before if not name.startswith((PIXELS, "tail."))]
        assert of_sam and all(torch.equal(learned[name], before[name]) for name in of_sam)
        (note,) = (n for n in tuned.result.notes if n.startswith("the source SAM is kept"))
        assert ("with the weak labels" in note) == (weak is None)
        assert not any(n.startswith("adapted: ") for n in tuned.result.notes)


def test_a_branch_that_agrees_less_with_the_weak_labels_gives_way(
    source: Adapted, target: LabeledVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(branch: Any, *_: Any) -> Any:
        worse = type(branch)(branch.spec, branch.output.out_channels, branch.weight)
        worse.load_state_dict(branch.state_dict())
        torch.nn.init.normal_(worse.output.weight, std=30.0)
        return worse.eval()

    monkeypatch.setattr(module, "_taught", spoiled)
    tuned = adapt(source, target)
    assert same(branch_of(tuned.adapted), branch_of(source))
    told = "the source's pixel branch is kept, since nothing speaks for another"
    assert any(note.startswith(told) for note in tuned.result.notes)


def test_cancelled_there_it_stays_and_the_sam_is_not_lost(
    source: Adapted, target: LabeledVolume
) -> None:
    def cancel(fraction: float, message: str) -> None:
        if message.startswith("adapting the pixel branch: step 2 "):
            raise Cancelled

    tuned, undisturbed = (adapt(source, target, **more) for more in ({"progress": cancel}, {}))
    assert tuned.result.stopped == "cancelled" and tuned.result.steps == FEW["steps"]
    assert same(branch_of(tuned.adapted), branch_of(source))
    assert "cancelled before the pixel branch was adapted" in tuned.result.notes
    assert tuned.result.history == undisturbed.result.history


def test_a_failure_there_is_told_and_the_sam_is_not_lost(
    source: Adapted, target: LabeledVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(whole, "adapt_branch", fails)
    tuned = adapt(source, target)
    assert "the pixel branch could not be adapted: out of memory" in tuned.result.notes
    assert tuned.result.steps == FEW["steps"]


def test_the_score_is_that_of_the_branch_that_is_left(
    source: Adapted, target: LabeledVolume
) -> None:
    held_out = [replace(target, slices=(1, 3, 5))]
    tuned = adapt(source, target, settings=SETTINGS, held_out=held_out)
    assert any(note.startswith("pixel branch adapted: ") for note in tuned.result.notes)
    again = adapt(tuned.adapted, target, WeakLabels("axial", {}), held_out=held_out)
    assert again.result.score["held_out_dice"] == pytest.approx(
        tuned.result.score["held_out_dice"], abs=1e-6
    )
    assert tuned.adapted.card.provenance["held_out_dice"] == pytest.approx(
        tuned.result.score["held_out_dice"], abs=1e-4
    )


def test_every_step_sees_slices_in_views_of_its_own(
    source: Adapted, target: LabeledVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[bytes]] = []
    original = module.PixelTraining.step

    def noted(self: Any, number: int, slices: Any, rate: float) -> float:
        batches.append([one.image.tobytes() for one in slices])
        return original(self, number, slices, rate)

    monkeypatch.setattr(module.PixelTraining, "step", noted)
    tuned = adapt(source, target, settings={**FEW, "steps": 8, "pixel_steps": 2})
    assert len(batches) == 16 and tuned.result.steps == 8
    assert len({image for batch in batches for image in batch}) > len(NUMBERS)  # some degraded
    before = list(batches)
    adapt(source, target, settings={**FEW, "steps": 8, "pixel_steps": 2})
    assert batches[16:] == before
