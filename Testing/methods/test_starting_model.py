"""A training goes on from a former model, also where the structures change."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.methods.finetune import finetune
from SAMAutoSegLib.methods.trainer import train
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.tuned_model import FineTuned, knows_other_slices
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.sam.backbone import Backbone

from .conftest import BAR, DISC

Learn = Callable[..., FineTuned]

# Nothing moves away from where it starts.
STILL = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "average": 0.0, "pixel_steps": 0}


def named(*names: str) -> list[Structure]:
    values = {"disc": DISC, "bar": BAR, "ring": 9}
    return [structure_named(name, values[name]) for name in names]


@pytest.fixture
def learn(labeled: Callable[..., LabeledVolume], tiny_backbone: Callable[..., Backbone]) -> Learn:
    def run(
        structures: Sequence[Structure],
        start: FineTuned | None = None,
        backbone: Backbone | None = None,
        slices: tuple[int, ...] = (2, 5),
        held_out: Sequence[LabeledVolume] = (),
        volumes: Sequence[LabeledVolume] = (),
        checkpoint: Path | None = None,
        resume: bool = False,
        plane: Plane = "axial",
        progress: Progress = silent,
        **settings: object,
    ) -> FineTuned:
        return finetune(
            volumes or [labeled(slices)],
            structures,
            backbone or tiny_backbone(),
            plane=plane,
            method=str(settings.pop("method", "blo-sam")),
            settings={"steps": 4, "batch": 2, "views": 1, "warmup": 1, **settings},
            start=start.adapted if start else None,
            held_out=held_out,
            checkpoint=checkpoint,
            resume=resume,
            progress=progress,
        )

    return run


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-6)


def tokens(tuned: FineTuned) -> torch.Tensor:
    return tuned.adapted.model.learned_state()["decoder.mask_tokens.weight"]


def hypernetwork(tuned: FineTuned, number: int) -> list[torch.Tensor]:
    start = f"decoder.output_hypernetworks_mlps.{number}."
    state = tuned.adapted.model.learned_state()
    return [value for name, value in state.items() if name.startswith(start)]


def test_known_structures_keep_what_was_learned_of_them_wherever_they_stand(learn: Learn) -> None:
    former = learn(named("disc", "bar"))
    onward = learn(named("ring", "bar", "disc"), start=former, **STILL)
    for new, old in ((0, 0), (2, 2), (3, 1)):  # background, bar, disc
        assert close(tokens(onward)[new], tokens(former)[old])
        pairs = zip(hypernetwork(onward, new), hypernetwork(former, old), strict=True)
        assert all(close(*pair) for pair in pairs)
    anew = learn(named("ring", "bar", "disc"), **STILL)
    assert close(tokens(onward)[1], tokens(anew)[1])
    known = former.adapted.model.learned_state()
    shared = [n for n in known if "lora" in n or n == "prompt_embedding"]
    assert shared
    for name in shared:
        now, before = (tuned.adapted.model.learned_state()[name] for tuned in (onward, former))
        assert close(now, before)
    assert onward.result.notes[0] == (
        "the training went on from the former model for bar, disc, and began anew for ring"
    )


def test_the_pixel_branch_takes_a_new_structure_for_background_at_first(learn: Learn) -> None:
    former = learn(named("disc"))
    onward = learn(named("disc", "bar"), start=former, **STILL)
    before, now = (tuned.adapted.model.learned_state() for tuned in (former, onward))
    for name in ("pixels.output.weight", "pixels.output.bias"):
        assert torch.equal(now[name][[0, 1, 2]], before[name][[0, 1, 0]])


def test_a_pixel_branch_that_is_trained_is_new_where_the_structures_change(learn: Learn) -> None:
    former = learn(named("disc"))
    onward = learn(named("disc", "bar"), start=former, steps=1)
    anew = learn(named("disc", "bar"), steps=1)
    states = [tuned.adapted.model.learned_state() for tuned in (onward, anew)]
    branch = [name for name in states[0] if name.startswith("pixels.")]
    assert branch and all(torch.equal(states[0][name], states[1][name]) for name in branch)
    assert not close(tokens(onward), tokens(anew))


def test_fewer_structures_go_on_too(learn: Learn) -> None:
    former = learn(named("disc", "bar"))
    onward = learn(named("bar"), start=former, **STILL)
    assert onward.adapted.model.classes == 2
    assert close(tokens(onward), tokens(former)[[0, 2]])
    assert onward.result.notes[0] == "the training went on from the former model for bar"


def test_an_interrupted_training_goes_on_from_the_same_model_only(
    learn: Learn, tmp_path: Path
) -> None:
    def cancel(fraction: float, message: str) -> None:
        if "step 2 " in message:
            raise Cancelled

    first, other = learn(named("disc")), learn(named("disc"), seed=5)
    kept = {"start": first, "checkpoint": tmp_path / "kept"}
    assert learn(named("disc"), progress=cancel, **kept).result.steps == 2
    with pytest.raises(SAMAutoSegError, match="to a training with other starting model"):
        learn(named("disc"), resume=True, **{**kept, "start": other})
    assert learn(named("disc"), resume=True, **kept).result.steps == 4


def test_the_card_tells_what_a_training_went_on_from(learn: Learn) -> None:
    former = learn(named("disc"))
    assert former.adapted.card.provenance["source"] is None
    onward = learn(named("disc", "bar"), start=former)
    source = onward.adapted.card.provenance["source"]
    assert source == {"method": "blo-sam", "provenance": former.adapted.card.provenance}


def test_a_slice_that_a_former_model_learned_from_is_not_scored(
    learn: Learn, labeled: Callable[..., LabeledVolume]
) -> None:
    first = learn(named("disc"))  # from slices 2 and 5
    second = learn(named("disc"), slices=(0,), start=first)
    held_out = [labeled((2, 5, 7)), labeled((2,), seed=1)]
    third = learn(named("disc"), slices=(4,), start=second, held_out=held_out)
    assert [one["slices"] for one in third.adapted.card.provenance["held_out"]] == [[7], [2]]
    note = "slices 2, 5 of scan0 are not scored, because the former model learned from them"
    assert note in third.result.notes
    held_out = [labeled((12,)), labeled((14,), seed=1)]
    further = {"slices": (14,), "plane": "sagittal", "volumes": [labeled((14,), seed=2)]}
    across = learn(named("disc"), start=second, held_out=held_out, **further)
    assert [one["slices"] for one in across.adapted.card.provenance["held_out"]] == [[14]]
    note = "scan0 gives no score, because the former model learned from axial slices of it"
    assert note in across.result.notes
    beside = learn(
        named("disc"), volumes=[labeled((2,), seed=2)], start=second, held_out=[labeled((1,))]
    )
    assert any("slice 1 of scan0 is next to a learned one" in one for one in beside.result.notes)
    none_left = learn(named("disc"), slices=(4,), start=second, held_out=[labeled((5,))])
    assert none_left.adapted.card.provenance["held_out_dice"] is None


def test_an_image_is_the_same_in_whatever_file_it_lies(
    learn: Learn, labeled: Callable[..., LabeledVolume]
) -> None:
    def copy_of(volume: LabeledVolume) -> LabeledVolume:
        values = volume.image.array.astype(np.float64)
        image = replace(volume.image, array=values, name="copy", source=Path("copy.nrrd"))
        return replace(volume, image=image)

    with pytest.raises(SAMAutoSegError, match="slice 5 of copy is both learned from and held out"):
        learn(named("disc"), held_out=[copy_of(labeled((5, 7)))])  # learns from slices 2 and 5
    first = learn(named("disc"), held_out=[copy_of(labeled((4,)))])
    assert [note for note in first.result.notes if "slice 4 of copy is next to a learned" in note]
    second = learn(named("disc"), slices=(0,), start=first, held_out=[copy_of(labeled((5, 7)))])
    assert [one["slices"] for one in second.adapted.card.provenance["held_out"]] == [[7]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"structures": named("bar")}, "has other structures"),
        ({"method": "auto-sam"}, "adapts other parts"),
    ],
)
def test_a_model_that_cannot_be_gone_on_from_is_left_aside_and_said_so(
    learn: Learn, change: dict, why: str
) -> None:
    former = learn(named("disc"))
    tuned = learn(**{"structures": named("disc"), "start": former, **change})
    note = f"the training started anew, because the former model {why}"
    assert note in tuned.result.notes and tuned.adapted.card.provenance["source"] is None


def test_a_head_whose_classes_are_not_apart_starts_anew_for_other_structures(learn: Learn) -> None:
    options = {"method": "auto-sam", "head": "auto-cnn-small"}
    former = learn(named("disc"), **options)
    again = learn(named("disc"), start=former, **options)
    other = learn(named("disc", "bar"), start=former, **options)
    assert not [note for note in again.result.notes if "anew" in note]
    assert [note for note in other.result.notes if "has other structures" in note]


@pytest.mark.parametrize(
    ("method", "setting", "had", "wanted"),
    [
        ("auto-sam", "head", "auto-linear", "auto-cnn-small"),
        ("sam-sp", "prompt", "box-point", "box"),
    ],
)
def test_other_parts_that_are_asked_for_start_anew(
    learn: Learn, method: str, setting: str, had: str, wanted: str
) -> None:
    former = learn(named("disc"), method=method, **{setting: had})
    asked = learn(named("disc"), start=former, method=method, **{setting: wanted})
    adaptation = asked.adapted.card.adaptation.to_json()
    assert adaptation[setting] == asked.adapted.card.settings[setting] == wanted
    assert [note for note in asked.result.notes if "adapts other parts" in note]


@pytest.mark.parametrize(
    ("method", "setting", "usual", "other"),
    [
        ("auto-sam", "head", "auto-vit-tokens", "auto-linear"),
        ("heatmap", "prompt", "auto", "point"),
        ("sam-sp", "prompt", "box", "box-point"),
    ],
)
def test_a_method_goes_on_with_what_its_former_model_has(
    learn: Learn, method: str, setting: str, usual: str, other: str
) -> None:
    assert learn(named("disc"), method=method).adapted.card.settings[setting] == usual
    former = learn(named("disc"), method=method, **{setting: other})
    card = learn(named("disc"), method=method, start=former).adapted.card
    assert card.provenance["source"] and card.settings[setting] == other
    assert card.adaptation == former.adapted.card.adaptation


def test_a_branch_that_the_former_model_has_not_is_not_claimed(learn: Learn) -> None:
    former = learn(named("disc"), pixel_steps=0)  # from two slices
    for asked in ({"pixel_steps": 2}, {"pixel_weight": 0.5}):
        onward = learn(named("disc"), slices=(5,), start=former, **asked)
        assert onward.adapted.model.pixels is None
        settings = onward.adapted.card.settings
        assert not settings["pixel_steps"] and not settings["pixel_weight"]
        assert [note for note in onward.result.notes if "no pixel branch is trained" in note]
    silent = learn(named("disc"), slices=(5,), start=former)
    assert not [note for note in silent.result.notes if "branch" in note]


def test_the_branch_keeps_its_weight_unless_another_is_asked_for(learn: Learn) -> None:
    former = learn(named("disc"), pixel_weight=2.0)
    for asked, weight in (({}, 2.0), ({"pixel_weight": 3.0}, 3.0)):
        onward = learn(named("disc"), start=former, **asked)
        pixels = onward.adapted.model.pixels
        assert pixels is not None and pixels.weight == weight
        assert onward.adapted.card.adaptation.pixel_weight == weight


def test_a_branch_that_learns_on_has_as_much_to_say_as_a_new_one(learn: Learn) -> None:
    quiet = learn(named("disc"), pixel_weight=0.25)  # from two slices
    onward = learn(named("disc"), slices=(1, 3, 5), start=quiet)
    anew = learn(named("disc")).adapted.card.adaptation
    assert onward.adapted.card.adaptation.pixel_weight == anew.pixel_weight
    kept = learn(named("disc"), slices=(5,), start=quiet)  # it knew more slices
    assert kept.adapted.card.adaptation.pixel_weight == 0.25


def test_a_branch_that_is_not_trained_keeps_its_weight(learn: Learn) -> None:
    quiet = learn(named("disc"), pixel_weight=0.25)
    onward = learn(named("disc"), slices=(1, 3, 5), start=quiet, pixel_steps=0)
    assert onward.adapted.card.adaptation.pixel_weight == 0.25


def test_what_a_branch_knows_of_one_patient_counts_less_with_a_second(
    learn: Learn, labeled: Callable[..., LabeledVolume]
) -> None:
    several = [labeled((2, 5)), labeled((2, 5), 1)]

    def weight(**start: FineTuned) -> float:
        tuned = learn(named("disc"), volumes=several, teach_branch=False, **start)
        return tuned.adapted.card.adaptation.pixel_weight

    of_one = learn(named("disc"), pixel_weight=2.0)
    assert weight(start=of_one) == weight() == 0.5
    of_two = learn(named("disc"), volumes=several, pixel_weight=2.0)
    assert weight(start=of_two) == 2.0


def test_a_model_that_goes_on_learns_though_it_knows_the_first_slices(
    learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(
        "SAMAutoSegLib.methods.finetune.train",
        lambda *args, **options: told.append(options["settle"]) or train(*args, **options),
    )
    former = learn(named("disc"), steps=6)
    onward = learn(named("disc"), start=former, steps=6)
    assert told == [0, 2] and onward.result.best_step >= 2


def test_whether_a_model_knows_slices_that_are_not_there_any_more_is_told_by_its_card(
    learn: Learn, labeled: Callable[..., LabeledVolume]
) -> None:
    first, second = labeled((2, 5)), labeled((3, 6), 1)
    of_one = learn(named("disc"), volumes=[first]).adapted.card
    of_both = learn(named("disc"), volumes=[first, second], teach_branch=False).adapted.card
    assert not knows_other_slices(of_one, [second, first], "axial")
    assert not knows_other_slices(of_both, [second, labeled((1, 2, 5))], "axial")
    assert knows_other_slices(of_both, [first], "axial")
    assert knows_other_slices(of_one, [labeled((2, 4)), second], "axial")
    assert knows_other_slices(of_one, [first, second], "coronal")
    # What it went on from counts, too; and who tells nothing may know anything.
    start = learn(named("disc"), volumes=[second])
    onward = learn(named("disc"), volumes=[first], start=start).adapted.card
    assert knows_other_slices(onward, [first], "axial")
    assert not knows_other_slices(onward, [first, second], "axial")
    assert knows_other_slices(replace(of_one, provenance={}), [first], "axial")


def test_a_model_that_goes_on_is_not_weighed_by_models_that_know_less(
    learn: Learn, labeled: Callable[..., LabeledVolume]
) -> None:
    several = [labeled((0, 2, 4, 6), seed) for seed in (0, 1)]
    assert learn(named("disc"), volumes=several).adapted.card.provenance[CALIBRATION]
    onward = learn(named("disc"), volumes=several, start=learn(named("disc")))
    assert onward.adapted.card.provenance[CALIBRATION] is None


def test_a_model_of_another_backbone_is_left_aside(
    learn: Learn, tiny_backbone: Callable[..., Backbone]
) -> None:
    former = learn(named("disc"))
    other = tiny_backbone()
    other.sha256 = "0" * 64
    tuned = learn(named("disc"), start=former, backbone=other)
    assert [note for note in tuned.result.notes if "another backbone" in note]
