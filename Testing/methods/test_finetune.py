import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.tuned_model import FineTuned
from SAMAutoSegLib.progress import Progress
from SAMAutoSegLib.sam.backbone import Backbone

from .conftest import QUICK, Tune

Build = Callable[..., LabeledVolume]


def same(one: FineTuned, other: FineTuned) -> bool:
    states = one.adapted.model.learned_state(), other.adapted.model.learned_state()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def fingerprint(backbone: Backbone) -> str:
    digest = hashlib.sha256()
    for part in (backbone.image_encoder, backbone.prompt_encoder, backbone.mask_decoder):
        for tensor in part.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def scores(tuned: FineTuned) -> list[float]:
    return [e["held_out_dice"] for e in tuned.result.history if "held_out_dice" in e]


@pytest.mark.parametrize("encoder_blocks", [0, 1])
@pytest.mark.parametrize("method", ["blo-sam", "joint"])
def test_the_backbone_is_not_changed(
    tune: Tune, tiny_backbone: Callable[..., Backbone], method: str, encoder_blocks: int
) -> None:
    backbone = tiny_backbone()
    before = fingerprint(backbone)
    tuned = tune(backbone=backbone, method=method, adaptation={"encoder_blocks": encoder_blocks})
    assert fingerprint(backbone) == before
    learned = tuned.adapted.model.learned_state()
    assert any(n.startswith("tail.") for n in learned) == bool(encoder_blocks)


def test_slices_of_several_volumes_are_encoded_in_more_views(tune: Tune, labeled: Build) -> None:
    settings = {"budget": "quick", "steps": 1}
    one = tune(labeled((2, 5)), settings=settings).adapted.card.settings
    several = tune(labeled((2,)), labeled((5,), seed=1), settings=settings).adapted.card.settings
    assert several["views"] == 4 * one["views"]
    # one that only lies beside, without a labeled slice, is nothing that is learned from
    unlabeled = tune(labeled((2, 5)), labeled((), seed=1), settings=settings)
    assert unlabeled.adapted.card.settings == one


def test_the_same_seed_gives_the_same_model_whatever_was_drawn_before(tune: Tune) -> None:
    torch.manual_seed(1)
    first = tune()
    torch.manual_seed(2)
    assert same(tune(), first)
    assert not same(tune(settings={**QUICK, "seed": 7}), first)


def test_held_out_slices_are_scored_and_train_nothing(tune: Tune, labeled: Build) -> None:
    wanted, held_out = tune(), labeled((7,))
    turned = Volume(held_out.labels.array[:, ::-1], held_out.labels.grid, "turned")
    found = tune(held_out=[held_out])
    assert same(found, wanted) and len(scores(found)) == 1
    provenance = found.adapted.card.provenance
    assert provenance["held_out_dice"] == round(found.result.score["held_out_dice"], 4)
    assert provenance["held_out"][0]["slices"] == [7]
    assert same(tune(held_out=[replace(held_out, labels=turned)]), wanted)
    assert wanted.adapted.card.provenance["held_out_dice"] is None and scores(wanted) == []


def test_held_out_slices_without_any_structure_give_no_score_and_stop_nothing(
    tune: Tune, labeled: Build
) -> None:
    test = labeled((7,))
    nothing = Volume(np.zeros_like(test.labels.array), test.labels.grid, "nothing")
    tuned = tune(held_out=[replace(test, labels=nothing)])
    provenance = tuned.adapted.card.provenance
    assert provenance["held_out"][0]["slices"] == [7]
    assert provenance["held_out_dice"] in (None, 0.0)  # 0: it found what is not there


def test_the_held_out_score_is_that_of_the_final_model(
    tune: Tune, labeled: Build, tiny_backbone: Callable[..., Backbone], intensity: Intensity
) -> None:
    held_out = labeled((7,), seed=3)
    tuned = tune(
        labeled((7,)), held_out=[held_out], settings={**QUICK, "steps": 30, "learning_rate": 0.01}
    )
    backbone = tiny_backbone()
    gray = intensity.apply(held_out.image.array)[7]
    with torch.no_grad():
        low_res = tuned.adapted.model(backbone.encode(backbone.spec.prepare(gray)[None]))[0]
        logits = tuned.adapted.model.slice_logits(low_res, gray, backbone.spec)
    predicted = logits.argmax(0).numpy()
    dice = []
    for number, label in ((1, 3), (2, 7)):
        a, b = predicted == number, held_out.labels.array[7] == label
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert tuned.result.best_step == 30 and np.mean(dice) > 0.2
    provenance = tuned.adapted.card.provenance
    assert provenance["held_out_dice"] == pytest.approx(np.mean(dice), abs=1e-3)
    by_structure = list(provenance["held_out_dice_by_structure"].values())
    assert by_structure == pytest.approx(dice, abs=1e-3)


def test_a_slice_cannot_be_learned_from_and_held_out(tune: Tune, labeled: Build) -> None:
    with pytest.raises(SAMAutoSegError, match="slice 5 of scan0 is both learned from and held out"):
        tune(labeled((2, 5)), held_out=[labeled((5, 8))])
    tune(labeled((2, 5)), held_out=[labeled((5, 8), seed=1)])


def test_an_image_is_the_same_by_another_path_or_without_one(tune: Tune, labeled: Build) -> None:
    one, other = labeled((2, 5)), labeled((5, 8))
    detour = replace(other.image, source=Path("folder/../scan0.nii.gz"))
    scene = replace(one.image, source=None)
    for first, second in ((one.image, detour), (scene, scene)):
        with pytest.raises(SAMAutoSegError, match="both learned from and held out"):
            tune(replace(one, image=first), held_out=[replace(other, image=second)])


def test_an_image_that_is_given_twice_is_named(tune: Tune, labeled: Build) -> None:
    settings = {**QUICK, "teach_branch": False}
    (note,) = tune(labeled((0, 4)), labeled((1,)), labeled((6,)), settings=settings).result.notes
    assert note == "scan0 is given twice and counts as two patients: give it once"
    others = (labeled((1,), seed=1), labeled(()))
    assert tune(labeled((0, 4)), *others, settings=settings).result.notes == []


def test_a_score_on_neighbors_of_learned_slices_is_said_to_flatter(
    tune: Tune, labeled: Build
) -> None:
    for near in (4, 6):
        (note,) = tune(labeled((2, 5)), held_out=[labeled((0, near, 8))]).result.notes
        assert note.startswith(f"held-out slice {near} of scan0 is next to a learned one")
    assert tune(labeled((2, 5)), held_out=[labeled((0, 7))]).result.notes == []
    assert tune(labeled((2, 5)), held_out=[labeled((4,), seed=1)]).result.notes == []


def test_a_structure_that_no_labeled_slice_shows_is_named(tune: Tune, labeled: Build) -> None:
    volume = labeled((2, 5))
    volume.labels.array[volume.labels.array == 7] = 0
    assert tune().result.notes == []
    assert tune(volume).result.notes == ["no labeled slice shows bar: this model cannot find it"]


@pytest.mark.parametrize("split", ["rotate", "half"])
@pytest.mark.parametrize("empty", [(0,), (2, 6), (0, 2)])
def test_labeled_slices_that_hold_nothing_are_learned_like_all_others(
    tune: Tune, labeled: Build, split: str, empty: tuple[int, ...]
) -> None:
    volume = labeled((0, 2, 4, 6))
    volume.labels.array[list(empty)] = 0
    settings = {**QUICK, "steps": 8, "split": split, "prompt_every": 1, "pixel_steps": 0}
    tuned = tune(volume, settings=settings)
    assert all(np.isfinite(list(entry.values())).all() for entry in tuned.result.history)
    assert tuned.adapted.card.slices_learned == 4
    # Fixed halves of which one shows nothing are the only ones that something has to be said of.
    assert bool(tuned.result.notes) == (split == "half" and empty == (0, 2))


def test_hundreds_of_slices_are_encoded_in_no_more_views_than_the_steps_can_use(
    tune: Tune, labeled: Build, tiny_backbone: Callable[..., Backbone]
) -> None:
    short = labeled()
    grid = replace(short.image.grid, size=(40, 48, 360))
    image, labels = (
        Volume(np.tile(one.array, (40, 1, 1)), grid, "long", None)
        for one in (short.image, short.labels)
    )
    many = LabeledVolume(image, labels, tuple(range(0, 360, 2)))
    settings = {"budget": "quick", "steps": 3, "prompt_every": 1, "teach_branch": False}
    tuned = tune(many, labeled((1,)), backbone=tiny_backbone(side=32), settings=settings)
    assert tuned.adapted.card.slices_learned == 181 and tuned.result.notes == []
    assert tuned.adapted.card.settings["views"] == 1  # of few slices it would be four


def test_volumes_of_wildly_different_sizes_and_spacings_are_learned_in_one_job(
    tune: Tune, labeled: Build
) -> None:
    volumes = [labeled((0, 4))]
    for seed, size, spacing in (
        (1, (12, 300, 5), (5.0, 0.2, 1.0)),
        (2, (700, 20, 4), (0.05, 3, 40)),
    ):
        labels = np.zeros(size[::-1], np.uint8)
        labels[:, size[1] // 4 : size[1] // 2, : size[0] // 2] = 3
        values = np.random.default_rng(seed).normal(110, 8, labels.shape) - 80 * (labels == 3)
        grid = replace(volumes[0].image.grid, size=size, spacing=spacing)
        image = Volume(values.astype(np.int16), grid, f"scan{seed}")
        volumes.append(LabeledVolume(image, Volume(labels, grid, "labels"), (1, 3)))
    settings = {**QUICK, "views": 2, "prompt_every": 1, "teach_branch": False}
    for order in ("first", "exact"):
        tuned = tune(*volumes, settings={**settings, "order": order})
        assert all(np.isfinite(list(entry.values())).all() for entry in tuned.result.history)
        assert [len(i["slices"]) for i in tuned.adapted.card.provenance["images"]] == [2, 2, 2]
        assert tuned.result.notes == []


def test_a_structure_too_small_for_the_output_is_named(
    tune: Tune, labeled: Build, tiny_backbone: Callable[..., Backbone]
) -> None:
    volume = labeled((2, 5))
    bar = volume.labels.array == 7
    volume.labels.array[bar] = 0
    volume.labels.array[2, 47, 35] = 7  # in the corner of a pixel of the output, of 6 x 6
    (note,) = tune(volume, backbone=tiny_backbone(side=32)).result.notes
    assert note.startswith("in every labeled slice bar is smaller than a pixel of the SAM's output")


def test_a_volume_without_a_labeled_slice_changes_nothing(tune: Tune, labeled: Build) -> None:
    alone = tune(labeled((2, 5)))
    assert same(tune(labeled((2, 5)), labeled((), seed=1)), alone)


def test_the_card_holds_what_is_needed_to_use_the_model(
    tune: Tune, tiny_backbone: Callable[..., Backbone], labeled: Build
) -> None:
    backbone = tiny_backbone(name="tiny", sha256="0" * 64)
    tuned = tune(labeled((2, 5)), labeled((1,), seed=1), backbone=backbone, method="joint")
    card = tuned.adapted.card
    assert (card.backbone, card.backbone_sha256, card.method) == ("tiny", "0" * 64, "joint")
    assert card.input == backbone.spec and card.plane == "axial"
    assert [s.label for s in card.structures] == [3, 7]
    assert card.settings["steps"] == 4 and card.settings.keys() >= {"seed", "learning_rate"}
    assert [i["slices"] for i in card.provenance["images"]] == [[2, 5], [1]]


def test_the_intensity_of_the_first_image_holds_for_all(tune: Tune, labeled: Build) -> None:
    brighter = labeled((3,), seed=1)
    brighter.image.array[...] += 500
    found = tune(labeled((2,)), brighter, intensity=None).adapted.card.intensity
    assert found == tune(labeled((2,)), intensity=None).adapted.card.intensity


def stop_at(message: str) -> Progress:
    def progress(fraction: float, told: str) -> None:
        if told.startswith(message):
            raise Cancelled("cancelled")

    return progress


def test_cancelling_keeps_what_was_trained_but_nothing_before(tune: Tune) -> None:
    tuned = tune(progress=stop_at("training: step 2"))
    assert tuned.result.stopped == "cancelled" and tuned.result.steps == 2
    assert tuned.adapted.card.provenance["steps"] == 2
    with pytest.raises(Cancelled):
        tune(progress=stop_at("encoding"))


def test_a_training_starts_from_a_former_model(tune: Tune) -> None:
    former = tune(settings={**QUICK, "steps": 8})
    still = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "average": 0.0}
    still["pixel_steps"] = 0  # which would learn at a rate of its own
    tuned = tune(start=former.adapted, settings=still)
    former_state = former.adapted.model.learned_state()
    for name, tensor in tuned.adapted.model.learned_state().items():
        assert torch.allclose(tensor, former_state[name], atol=1e-6)
    assert not same(tune(settings=still), tuned) and tuned.result.notes == []


def test_a_former_model_that_adapts_other_parts_is_left_aside_and_said_so(tune: Tune) -> None:
    former = tune(adaptation={"lora_rank": 2})
    assert tune(start=former.adapted).adapted.card.adaptation.lora_rank == 2  # unless asked for
    tuned = tune(start=former.adapted, adaptation={"lora_rank": 4})
    assert same(tuned, tune())
    assert "started anew" in tuned.result.notes[-1]


def test_every_step_is_told_as_it_is_made(tune: Tune, labeled: Build) -> None:
    told: list[dict[str, float]] = []
    tuned = tune(held_out=[labeled((7,))], on_step=told.append)
    assert told == tuned.result.history and "held_out_dice" in told[-1]


@pytest.mark.parametrize("method", ["blo-sam", "joint"])
def test_going_on_gives_the_model_of_an_uninterrupted_run(
    tune: Tune, tmp_path: Path, method: str
) -> None:
    wanted = tune(method=method)
    checkpoint = tmp_path / "model.training"
    tune(method=method, checkpoint=checkpoint, progress=stop_at("training: step 3"))
    torch.manual_seed(99)
    found = tune(method=method, checkpoint=checkpoint, resume=True)
    assert same(found, wanted) and found.result.history == wanted.result.history


def test_a_training_that_fails_after_its_last_step_is_not_lost(tune: Tune, tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    def crash(fraction: float, message: str) -> None:
        if message.startswith("checking"):
            raise Crash

    wanted = tune(with_calibration=True)
    checkpoint = tmp_path / "model.training"
    with pytest.raises(Crash):
        tune(with_calibration=True, checkpoint=checkpoint, progress=crash)
    told: list[str] = []
    found = tune(
        with_calibration=True,
        checkpoint=checkpoint,
        resume=True,
        progress=lambda fraction, message: told.append(message),
    )
    assert same(found, wanted) and found.adapted.card.temperature == wanted.adapted.card.temperature
    assert not [message for message in told if message.startswith("training")]


def test_progress_goes_from_nothing_to_all_and_never_back(tune: Tune) -> None:
    told: list[float] = []
    tune(progress=lambda fraction, message: told.append(fraction))
    assert told == sorted(told) and 0 < told[0] < 0.2 and told[-1] == 1.0


def test_encoding_held_out_slices_is_told_and_can_be_cancelled(tune: Tune, labeled: Build) -> None:
    told: list[float] = []

    def progress(fraction: float, message: str) -> None:
        if message.startswith("encoding"):
            told.append(fraction)

    tune(held_out=[labeled((0, 1, 6, 7))], progress=progress)
    assert told == sorted(told) and len(told) == 6
    with pytest.raises(Cancelled):
        tune(held_out=[labeled((0, 1, 6, 7))], progress=stop_after(told[-2]))


def stop_after(share: float) -> Progress:
    def progress(fraction: float, message: str) -> None:
        if fraction > share and message.startswith("encoding"):
            raise Cancelled("stop")

    return progress


def test_encoder_blocks_that_there_are_not_are_refused_before_anything_is_encoded(
    tune: Tune,
) -> None:
    told: list[str] = []
    with pytest.raises(SAMAutoSegError, match="encoder blocks 7: this backbone has 1 to"):
        tune(adaptation={"encoder_blocks": 7}, progress=lambda _, message: told.append(message))
    with pytest.raises(SAMAutoSegError, match="encoder_blocks 1: expected 0"):
        tune(
            method="heatmap",
            settings={"steps": 1},
            adaptation={"encoder_blocks": 1},
            progress=lambda _, message: told.append(message),
        )
    assert told == []


def test_parts_that_a_method_does_not_learn_are_refused(tune: Tune) -> None:
    for head in ("auto-linear", "auto-vit-tokens"):
        with pytest.raises(SAMAutoSegError, match=f"head {head}: blo-sam learns a prompt embedd"):
            tune(method="blo-sam", adaptation={"head": head, "lora_rank": 0})
    for method in ("blo-sam", "joint"):
        with pytest.raises(SAMAutoSegError, match=f"prompted: {method} learns no pass with a"):
            tune(method=method, adaptation={"prompted": True})


def test_structures_that_are_in_no_slice_at_all_are_refused(
    labeled: Build, tiny_backbone: Callable[..., Backbone]
) -> None:
    with pytest.raises(SAMAutoSegError, match="none of the 4 labeled slices holds a voxel of lung"):
        finetune([labeled()], [structure_named("lung", 9)], tiny_backbone(), plane="axial")


def test_what_was_forgotten_is_told(tiny_backbone: Callable[..., Backbone], labeled: Build) -> None:
    volume, structure = labeled(), structure_named("disc", 1)
    backbone = tiny_backbone()
    with pytest.raises(SAMAutoSegError, match="no volume to learn from"):
        finetune([], [structure], backbone, plane="axial")
    for settings in ({"budget": "standard"}, {"recipe": "published"}):
        with pytest.raises(SAMAutoSegError, match="no labeled slice: name at least one"):
            finetune([labeled(())], [structure], backbone, plane="axial", settings=settings)
    with pytest.raises(SAMAutoSegError, match="no structure to learn"):
        finetune([volume], [], backbone, plane="axial")
    with pytest.raises(SAMAutoSegError, match="start is a tuple: expected Adapted"):
        finetune([volume], [structure], backbone, plane="axial", start=(1, 2))  # type: ignore[arg-type]
