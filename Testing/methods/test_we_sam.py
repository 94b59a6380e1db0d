"""WeSAM: what holds before the first step, what a step changes, when it stops."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION, Adapted, ModelCard
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.heads import HeadName
from SAMAutoSegLib.adapt.with_encoder_blocks import with_encoder_blocks
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels
from SAMAutoSegLib.methods import we_sam
from SAMAutoSegLib.methods.adapt_source import adapt_source
from SAMAutoSegLib.methods.held_out import unseen
from SAMAutoSegLib.methods.method import AGREEMENT, Guarded
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet
from SAMAutoSegLib.methods.tuned_model import origin_of
from SAMAutoSegLib.methods.unlabeled_set import (
    UnlabeledSet,
    UnlabeledVolume,
    build_unlabeled_set,
)
from SAMAutoSegLib.methods.we_sam import Judgment, WeSAM, WeSAMSettings, agreement, agreements
from SAMAutoSegLib.methods.we_sam_losses import dice_loss, focal_loss
from SAMAutoSegLib.methods.we_sam_prompted import PromptedWeSAMSettings
from SAMAutoSegLib.sam.backbone import Backbone

DISC, BAR = 3, 7
SETTINGS = WeSAMSettings(steps=20, batch=2, encoder_blocks=1, learning_rate=1e-3)

BOXES = WeakLabels(
    "axial",
    {
        n: {
            DISC: Hint(boxes=((6 + n, 4 + n, 23 + n, 21 + n),)),
            BAR: Hint(boxes=((30 + n, 6, 38 + n, 30),)),
        }
        for n in (0, 2, 4, 6)
    },
)

Slices = Callable[..., UnlabeledSet]


@pytest.fixture
def source(
    tiny_backbone: Callable[..., Backbone],
    new_model: Callable[..., AdaptedModel],
    structures: list[Structure],
    intensity: Intensity,
) -> Adapted:
    """A model that finds background, disc and bar here and there."""
    model, backbone = new_model(seed=1).eval(), tiny_backbone()
    card = ModelCard(
        backbone="tiny",
        backbone_sha256="",
        input=backbone.spec,
        intensity=intensity,
        plane="axial",
        adaptation=model.adaptation,
        structures=tuple(structures),
        method="joint",
    )
    return Adapted(model, card, backbone)


@pytest.fixture
def slices(
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    structures: list[Structure],
    intensity: Intensity,
) -> Slices:
    def build(weak: WeakLabels = BOXES, numbers: tuple[int, ...] = (0, 2, 4, 6)) -> UnlabeledSet:
        return build_unlabeled_set(
            [UnlabeledVolume(labeled().image, numbers, weak)],
            structures,
            tiny_backbone(),
            plane="axial",
            intensity=intensity,
            encoder_blocks=1,
        )

    return build


@pytest.fixture
def started(source: Adapted) -> AdaptedModel:
    return with_encoder_blocks(source.model, source.backbone, 1)


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """However alike a source segments changed views, it is adapted without labels too."""
    monkeypatch.setattr(we_sam, "_SURE_SOURCE", 2.0)


def digest(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def identical_views(samples: UnlabeledSet) -> UnlabeledSet:
    views = tuple(
        replace(view, strong=(view.weak,), unseen=(view.weak,)) for view in samples.views[:1]
    )
    return replace(samples, views=views)


def test_before_the_first_step_student_teacher_and_anchor_are_one(
    started: AdaptedModel, slices: Slices
) -> None:
    samples = identical_views(slices(WeakLabels("axial")))
    method = WeSAM(started, samples, replace(SETTINGS, confidence=0.0))
    judged = method.judged(started)
    assert judged.rest == judged.consistency == method.agreement_at_start == 1
    assert judged.marked != judged.marked  # NaN: no weak label
    losses = method.step(0)
    assert losses[AGREEMENT] == 1
    # Both branches are held to the same hard masks, so their mean is what self-training sees too.
    focal_free = WeSAM(started, samples, replace(SETTINGS, confidence=0.0, focal_weight=0.0))
    losses = focal_free.step(0)
    assert losses["self_training_loss"] == pytest.approx(losses["anchor_loss"], rel=1e-6)


def test_a_model_is_judged_on_views_that_it_has_not_learned_from(
    started: AdaptedModel, slices: Slices
) -> None:
    samples = slices(WeakLabels("axial"))
    first, second = samples.views
    assert len(first.unseen) == 1 and second.unseen == ()
    assert not any(torch.equal(first.unseen[0], own) for own in (first.weak, *first.strong))
    judged = WeSAM(started, samples, SETTINGS).judged(started).consistency
    # What is learned from may be anything; the steps see no view that judges.
    swapped = replace(
        samples, views=(replace(first, strong=(torch.randn_like(first.weak),)), second)
    )
    assert WeSAM(started, swapped, SETTINGS).judged(started).consistency == judged
    swapped = replace(
        samples, views=(replace(first, unseen=(torch.randn_like(first.weak),)), second)
    )
    method = WeSAM(copy.deepcopy(started), samples, SETTINGS)
    other = WeSAM(copy.deepcopy(started), swapped, SETTINGS)
    assert method.step(0) == pytest.approx(other.step(0), nan_ok=True)


def test_little_is_kept_of_weak_labels_and_nothing_where_there_are_none(slices: Slices) -> None:
    samples = slices(numbers=(0, 1, 2, 3))
    assert samples.hinted == 2 and len(samples) == 4
    for view in samples.views:
        known = [None if said is None else said.planes for said in view.evidence]
        assert known[1] is known[3] is None
        for planes in (known[0], known[2]):
            assert planes is not None
            assert [plane.element_size() for plane in planes] == [1, 1, 2, 1]
            assert all(plane.shape == (2, 32, 32) for plane in planes)


def test_weak_labels_of_other_slices_make_another_set(slices: Slices) -> None:
    hints = {DISC: Hint(absent=True)}
    one, other, none = (slices(WeakLabels("axial", said)) for said in ({0: hints}, {2: hints}, {}))
    assert len({samples.fingerprint() for samples in (one, other, none)}) == 3
    assert one.fingerprint() == slices(WeakLabels("axial", {0: hints})).fingerprint()


def test_the_fingerprint_is_of_the_bytes_of_names_features_and_evidence(slices: Slices) -> None:
    samples = slices()
    expected = hashlib.sha256("\n".join(one.name for one in samples.structures).encode())
    for view in samples.views:
        expected.update(bytes(known is not None for known in view.evidence))
        planes = [plane for known in view.evidence if known for plane in known.planes]
        for tensor in (view.weak, *view.strong, *view.unseen, *planes):
            expected.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    assert samples.fingerprint() == expected.hexdigest()


def test_the_anchor_never_changes(started: AdaptedModel, slices: Slices) -> None:
    method = WeSAM(started, slices(), SETTINGS)
    before = digest(method.anchor), digest(started)
    for number in range(3):
        method.step(number)
    assert digest(method.anchor) == before[0] == before[1] != digest(started)


@pytest.mark.parametrize("learned", ["encoder", "all"])
def test_only_what_is_meant_to_learns(started: AdaptedModel, slices: Slices, learned: str) -> None:
    before = {name: value.clone() for name, value in started.state_dict().items()}
    method = WeSAM(started, slices(), replace(SETTINGS, learned=learned))
    for number in range(2):
        method.step(number)
    changed = {n for n, value in started.state_dict().items() if not torch.equal(value, before[n])}
    own = set(started.learned_state())
    assert changed <= own and any(name.startswith("tail.") for name in changed)
    assert all(name.startswith("tail.") for name in changed) == (learned == "encoder")


def test_the_same_seed_gives_the_same_training(source: Adapted, slices: Slices) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        model = with_encoder_blocks(source.model, source.backbone, 1)
        method = WeSAM(model, slices(), SETTINGS)
        losses = [method.step(number) for number in range(2)]
        states.append((losses, model.learned_state()))
    assert states[0][0] == states[1][0]
    assert all(torch.equal(value, states[1][1][name]) for name, value in states[0][1].items())


Compared = list[tuple[torch.Tensor, ...]]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Compared]:
    """What every loss of `WeSAM` was given, by its name."""
    seen: dict[str, Compared] = {}

    def spied(name: str) -> None:
        loss = getattr(we_sam, name)

        def record(*given: torch.Tensor) -> torch.Tensor:
            seen.setdefault(name, []).append(given)
            return loss(*given)

        monkeypatch.setattr(we_sam, name, record)

    for name in ("focal_loss", "dice_loss", "contrastive_loss"):
        spied(name)
    return seen


def test_the_student_learns_what_the_teacher_says_as_corrected_by_the_weak_labels(
    started: AdaptedModel, slices: Slices, compared: dict[str, Compared]
) -> None:
    absent = {n: {DISC: Hint(absent=True)} for n in (0, 2, 4)}
    for weak in (WeakLabels("axial"), WeakLabels("axial", {**absent, 6: BOXES.hints[6]})):
        WeSAM(started, slices(weak), replace(SETTINGS, batch=4, confidence=0.0)).step(0)
    (_, free, _), (_, told, _) = compared["focal_loss"]

    def shown(masks: torch.Tensor) -> int:
        return int(masks[:, 0].flatten(1).any(1).sum())

    assert shown(told) == 1 < shown(free)
    (_, taught, _), *held = compared["dice_loss"][3:]
    assert torch.equal(taught, told)
    # The anchor is corrected too, and holds both student and teacher.
    assert [shown(expected) for _, expected, _ in held] == [1, 1]
    student, teacher = held[0][0], held[1][0]
    assert student.requires_grad and teacher.requires_grad and not torch.equal(student, teacher)


def test_pixels_of_little_confidence_teach_nothing(
    started: AdaptedModel, slices: Slices, compared: dict[str, Compared]
) -> None:
    for confidence in (0.0, 0.38):
        method = WeSAM(started, slices(WeakLabels("axial")), SETTINGS)
        method.settings = replace(SETTINGS, confidence=confidence)
        method.step(0)
    all_inside, sure = (counted.sum() for _, _, counted in compared["focal_loss"])
    assert 0 < sure < all_inside


def test_the_loss_is_the_weighted_sum_of_all_three(
    started: AdaptedModel, slices: Slices, compared: dict[str, Compared]
) -> None:
    weights = {"focal_weight": 3.0, "anchor_weight": 5.0, "contrast_weight": 7.0}
    losses = WeSAM(started, slices(), replace(SETTINGS, temperature=0.5, **weights)).step(0)
    focal = focal_loss(*compared["focal_loss"][0]).item()
    own, student, teacher = (dice_loss(*given).item() for given in compared["dice_loss"])
    assert losses["self_training_loss"] == pytest.approx(3 * focal + own)
    assert losses["anchor_loss"] == pytest.approx((student + teacher) / 2)
    ((*_, temperature),) = compared["contrastive_loss"]
    assert temperature == 0.5
    whole = losses["self_training_loss"] + 5 * losses["anchor_loss"] + 7 * losses["contrast_loss"]
    assert losses["adaptation_loss"] == pytest.approx(whole)


def test_contrast_teaches_with_one_structure_too(started: AdaptedModel, slices: Slices) -> None:
    samples = slices(WeakLabels("axial"))
    losses = WeSAM(started, samples, SETTINGS).step(0)
    assert losses["contrast_loss"] > 0


@pytest.mark.usefixtures("unsure")
def test_it_is_guarded_and_stops_when_the_model_drifts(
    started: AdaptedModel, slices: Slices
) -> None:
    method = WeSAM(started, slices(WeakLabels("axial")), SETTINGS)
    assert isinstance(method, Guarded)
    good, bad = {AGREEMENT: 0.95}, {AGREEMENT: 0.5}
    assert method.stop_reason([bad] * 9) == ""  # too few to tell
    assert method.stop_reason([bad] * 20 + [good] * 10) == ""
    reason = method.stop_reason([good] * 20 + [bad] * 10)
    assert reason.startswith("drift: agreement with the anchor 0.500, below 0.800")
    # What weak labels correct, the source did not agree with either.
    told = WeSAM(started, slices(), SETTINGS)
    start = told.agreement_at_start
    assert start < 0.9 and told.stop_reason([{AGREEMENT: 0.85 * start}] * 10) == ""
    assert told.stop_reason([{AGREEMENT: 0.75 * start}] * 10).startswith("drift")


@pytest.mark.usefixtures("unsure")
def test_steps_on_slices_that_lack_the_structures_do_not_hide_a_drift(
    started: AdaptedModel, slices: Slices
) -> None:
    method = WeSAM(started, slices(WeakLabels("axial")), SETTINGS)
    nothing, bad = {AGREEMENT: float("nan")}, {AGREEMENT: 0.5}
    assert method.stop_reason([nothing, bad] * 9 + [nothing] * 20) == ""
    assert method.stop_reason([nothing, bad] * 10).startswith("drift")
    assert method.stop_reason([nothing] * 20) == ""


def test_a_model_that_has_gone_astray_gives_way_to_the_source(
    started: AdaptedModel, slices: Slices
) -> None:
    for weak in (BOXES, WeakLabels("axial")):
        method = WeSAM(started, slices(weak), SETTINGS)
        before = started.learned_state()
        with torch.no_grad():
            for parameter in started.learned():
                parameter += torch.randn_like(parameter)
        (note,) = method.concluded(started)
        assert "the source model is kept" in note
        assert all(torch.equal(before[n], v) for n, v in started.learned_state().items())


def test_weak_labels_of_one_slice_are_what_the_model_is_judged_by(
    started: AdaptedModel, slices: Slices
) -> None:
    boxes = WeakLabels("axial", {0: {DISC: BOXES.hints[0][DISC]}})
    samples = slices(boxes, tuple(range(8)))
    method = WeSAM(started, samples, SETTINGS)
    _, shares = method._forward(method.anchor, samples.views[0].weak[:1])
    (disc, _) = agreements(shares, method._anchors[0].labels[:1])
    judged = method.judged(method.anchor)
    assert judged.marked == disc < 0.9 < judged.rest  # the other slices do not blur it


def test_a_model_that_departs_where_nothing_is_marked_gives_way_to_the_source(
    started: AdaptedModel, slices: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = WeSAM(started, slices(), SETTINGS)
    before = Judgment(marked=0.4, rest=0.9, consistency=0.5)
    for after, words in (
        (
            replace(before, marked=0.5),
            "adapted: agreement with the weak labels 0.400 before, 0.500 after",
        ),
        (replace(before, marked=0.5, rest=0.7), "kept, since the adapted one departs from it"),
        (replace(before, marked=0.5, rest=float("nan")), "adapted: "),
        (replace(before, consistency=0.9), "kept, since nothing speaks for the adapted one"),
    ):
        judged = {id(method.anchor): before, id(started): after}
        monkeypatch.setattr(method, "judged", lambda model, told=judged: told[id(model)])
        assert words in method.concluded(started)[0]
    lost = WeSAM(started, slices(), SETTINGS)
    monkeypatch.setattr(lost, "judged", lambda model: replace(before, marked=0.02))
    assert "correct some slices and learn from these instead" in lost.concluded(started)[0]
    # Of what is only said to be absent, a model that is wrong finds too much.
    absent = WeakLabels("axial", {0: {DISC: Hint(absent=True)}})
    method = WeSAM(started, slices(absent), SETTINGS)
    assert method.judged(started).marked == 0
    assert "since nothing speaks for the adapted one" in method.concluded(started)[0]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.5, 0.6, "adapted: Dice between views 0.500 before, 0.600 after"),
        (0.5, 0.505, "kept, since nothing speaks for the adapted one"),
        (0.83, 0.89, "kept, since it segments changed views alike already"),
    ],
)
def test_without_labels_only_an_unsure_source_gives_way(
    started: AdaptedModel,
    slices: Slices,
    monkeypatch: pytest.MonkeyPatch,
    before: float,
    after: float,
    words: str,
) -> None:
    method = WeSAM(started, slices(WeakLabels("axial")), SETTINGS)
    source = Judgment(marked=float("nan"), rest=1.0, consistency=before)
    adapted = Judgment(marked=float("nan"), rest=0.95, consistency=after)
    judged = {id(method.anchor): source, id(started): adapted}
    monkeypatch.setattr(method, "judged", lambda model: judged[id(model)])
    # Nobody waits for a training whose result is not looked at.
    ended = method.stop_reason([{AGREEMENT: 1.0}])
    assert ended == ("the source is sure already" if before > 0.65 else "")
    assert words in method.concluded(started)[0]


def test_agreement_is_dice_over_structures() -> None:
    shares = torch.zeros(1, 3, 4, 4)
    shares[:, 0] = 0.4
    shares[:, 1, :2] = 0.6
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[:, :1] = 1
    assert agreement(shares, labels) == pytest.approx(2 * 4 / 12)
    labels[:, 1] = 255  # padding does not count
    assert agreement(shares, labels) == 1


def test_labeled_slices_are_refused(
    started: AdaptedModel, samples: Callable[..., TrainingSet]
) -> None:
    with pytest.raises(SAMAutoSegError, match="name the model to start from"):
        WeSAM(started, samples(), SETTINGS)


def test_nothing_found_and_nothing_said_is_refused(started: AdaptedModel, slices: Slices) -> None:
    blind = started
    with torch.no_grad():  # nothing but background, whatever it is shown
        for mlp in blind.decoder.output_hypernetworks_mlps:  # type: ignore[attr-defined]
            for layer in mlp.layers:
                layer.weight.zero_()
                layer.bias.zero_()
    with pytest.raises(SAMAutoSegError, match="the model finds nothing of disc, bar in any of the"):
        WeSAM(blind, slices(WeakLabels("axial")), SETTINGS)
    paint = torch.zeros(48, 40, dtype=torch.bool)
    paint[6:23, 4:21] = True
    said = WeakLabels("axial", {0: {DISC: Hint(coarse=paint.numpy())}})
    notes = " ".join(WeSAM(blind, slices(said), SETTINGS).notes())
    assert "no slice seems to show bar" in notes


def test_a_single_slice_can_be_adapted_to_and_is_told(
    started: AdaptedModel, slices: Slices
) -> None:
    method = WeSAM(started, slices(numbers=(2,)), SETTINGS)
    losses = method.step(0)
    assert all(value == value for value in losses.values())
    assert any("one slice only" in note for note in method.notes())


def test_fewer_encoder_blocks_than_asked_for_are_told(
    started: AdaptedModel, slices: Slices
) -> None:
    told = "encoder_blocks 5: all 1 that this SAM has to tune are adapted"
    for asked, expected in ((5, True), (1, False), (0, False)):
        notes = WeSAM(started, slices(), replace(SETTINGS, encoder_blocks=asked)).notes()
        assert (told in notes) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learned": "decoder"}, "setting learned=decoder: expected encoder or all"),
        ({"strong": 0}, "setting strong=0"),
        ({"confidence": 1.0}, "setting confidence"),
        ({"temperature": 0.0}, "setting temperature"),
        ({"schedule": "cosine"}, "setting schedule=cosine: expected polynomial or constant"),
        ({"pixel_steps": -1}, "setting pixel_steps"),
        ({"pixel_weight": 0.5}, "setting pixel_weight=0.5: expected 0.0, since this method"),
        ({"feature_dropout": 0.2}, "setting feature_dropout=0.2: expected 0.0"),
        ({"view_strength": 2.0}, "setting view_strength=2.0: expected 0.0"),
        ({"ce_weight": 0.5}, "setting ce_weight=0.5: expected 0.2"),
        ({"count_absent": True}, "setting count_absent=True: expected False"),
        ({"recipe": "mine"}, "mine"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict, words: str) -> None:
    with pytest.raises(SAMAutoSegError, match=words):
        make_settings(WeSAMSettings, values)


def test_the_published_recipe_adapts_the_encoder_alone() -> None:
    settings = make_settings(WeSAMSettings, {"recipe": "published"})
    assert isinstance(settings, WeSAMSettings)
    assert (settings.learned, settings.encoder_blocks, settings.steps) == ("encoder", 0, 40_000)
    assert (settings.views, settings.gradient_clip, settings.average) == (1, 0, 0)
    rates = [settings.rate_at(step, settings.learning_rate) for step in (0, 250, 39_999)]
    assert rates == [pytest.approx(1e-4 / 251), 1e-4, 1e-4]


def test_the_published_recipe_is_all_that_a_prompted_sam_does() -> None:
    published = make_settings(PromptedWeSAMSettings, {"recipe": "published"})
    own = {"batch", "views", "average", "confidence", "learned"}
    values, usual = published.to_json(), PromptedWeSAMSettings().to_json()
    assert all(values[name] == usual[name] for name in own)


class TestAsAWhole:
    """From files to a model, as the commands do it."""

    def adapt(self, source: Adapted, volume: LabeledVolume, **more):  # type: ignore[no-untyped-def]
        weak = more.pop("weak", BOXES)
        slices = more.pop("slices", (0, 2, 4, 6))
        settings = {"steps": 4, "encoder_blocks": 1, "views": 1} | more.pop("settings", {})
        return adapt_source(
            [UnlabeledVolume(volume.image, slices, weak)],
            source,
            settings=settings,
            **more,
        )

    def test_the_card_names_the_source_and_the_weak_labels(
        self,
        source: Adapted,
        labeled: Callable[..., LabeledVolume],
    ) -> None:
        before = source.model.learned_state()
        tuned = self.adapt(source, labeled(), held_out=[labeled((1, 3))])
        card = tuned.adapted.card
        assert card.method == "we-sam" and card.structures == source.card.structures
        assert card.provenance["weak_labels"] == ["boxes"]
        assert card.provenance["source"]["method"] == "joint"
        assert card.slices_learned == 0 and CALIBRATION not in card.provenance
        (image,) = card.provenance["images"]
        assert (image["slices"], image["unlabeled"]) == ([], [0, 2, 4, 6])
        kept, notes = unseen([labeled((1, 2))], card, "axial")
        assert [volume.slices for volume in kept] == [(1,)] and "slice 2 of scan0" in notes[0]
        assert card.adaptation.encoder_blocks == 1 == tuned.adapted.model.adaptation.encoder_blocks
        assert card.provenance["held_out_dice"] is not None
        assert all(AGREEMENT in entry for entry in tuned.result.history)
        assert any("adapted:" in n or "is kept" in n for n in tuned.result.notes)
        after = source.model.learned_state()
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    @pytest.mark.parametrize("head", [*get_args(HeadName), "class-tokens and prompted"])
    def test_a_model_of_every_head_takes_a_step_or_is_refused_in_words(
        self,
        source: Adapted,
        labeled: Callable[..., LabeledVolume],
        head: str,
    ) -> None:
        name, _, prompted = head.partition(" and ")
        rank = 4 if name == "class-tokens" else 0
        adaptation: dict[str, Any] = {"head": name, "prompted": bool(prompted), "lora_rank": rank}
        torch.manual_seed(1)
        model = AdaptedModel(source.backbone, 3, Adaptation(**adaptation)).eval()
        card = replace(source.card, adaptation=model.adaptation)
        begun = Adapted(model, card, source.backbone)
        if name.startswith("heatmap"):
            with pytest.raises(SAMAutoSegError, match="start from a model of another method"):
                self.adapt(begun, labeled())
            return
        assert self.adapt(begun, labeled(), settings={"steps": 1}).result.steps == 1

    def test_without_weak_labels_a_sure_source_is_handed_back_after_one_step(
        self,
        source: Adapted,
        labeled: Callable[..., LabeledVolume],
    ) -> None:
        tuned = self.adapt(source, labeled(), weak=WeakLabels("axial"), settings={"steps": 40})
        assert (tuned.result.steps, tuned.result.stopped) == (1, "the source is sure already")
        assert tuned.adapted.model is source.model
        known = {"images": [origin_of(labeled((3,)), "axial")]}
        begun = replace(source, card=replace(source.card, provenance=known))
        scored = self.adapt(begun, labeled(), weak=WeakLabels("axial"), held_out=[labeled((1, 3))])
        provenance = scored.adapted.card.provenance
        assert provenance["held_out"][0]["slices"] == [1]  # the source learned from the other
        assert provenance["held_out_dice"] is not None
        assert any("slice 3 of scan0 is not scored" in note for note in scored.result.notes)
        assert any("segments changed views alike already" in n for n in tuned.result.notes)

    @pytest.mark.usefixtures("unsure")
    def test_without_weak_labels_it_never_ends_below_what_can_be_told(
        self,
        source: Adapted,
        labeled: Callable[..., LabeledVolume],
    ) -> None:
        calibrated = replace(source.card, provenance={CALIBRATION: {"temperature": 3.0}})
        source = replace(source, card=calibrated)
        wild = {"learning_rate": 0.5, "steps": 40, "warmup": 0}
        tuned = self.adapt(source, labeled(), weak=WeakLabels("axial"), settings=wild)
        assert tuned.result.stopped.startswith("drift") and tuned.result.steps < 40
        assert any("the source model is kept" in note for note in tuned.result.notes)
        # Without the blocks that were tried, whose path rounds otherwise.
        assert tuned.adapted.model is source.model
        assert tuned.adapted.card.adaptation == source.model.adaptation
        assert tuned.adapted.card.provenance[CALIBRATION] == {"temperature": 3.0}

    def test_an_interrupted_adaptation_goes_on_with_the_same_source_only(
        self,
        source: Adapted,
        labeled: Callable[..., LabeledVolume],
        new_model: Callable[..., AdaptedModel],
        tmp_path: Path,
    ) -> None:
        def cancel(fraction: float, message: str) -> None:
            if "step 2 " in message:
                raise Cancelled

        kept = {"checkpoint": tmp_path / "kept"}
        assert self.adapt(source, labeled(), progress=cancel, **kept).result.steps == 2
        other = replace(source, model=new_model(seed=2).eval())
        renamed = replace(
            source.card, structures=(structure_named("liver", DISC), structure_named("bar", BAR))
        )
        for begun, what in ((other, "starting model"), (replace(source, card=renamed), "samples")):
            with pytest.raises(SAMAutoSegError, match=f"to a training with other {what}"):
                self.adapt(begun, labeled(), resume=True, **kept)
        whole = self.adapt(source, labeled())
        gone_on = self.adapt(source, labeled(), resume=True, **kept)
        assert gone_on.result.steps == 4 and gone_on.result.history == whole.result.history
        one, other = (tuned.adapted.model.learned_state() for tuned in (gone_on, whole))
        assert all(torch.equal(value, other[name]) for name, value in one.items())

    def test_slices_that_cannot_be_are_refused(
        self,
        source: Adapted,
        labeled: Callable[..., LabeledVolume],
    ) -> None:
        for numbers, words in (((), "no slice to adapt to"), ((9,), "slice 9 is out of range")):
            with pytest.raises(SAMAutoSegError, match=words):
                self.adapt(source, labeled(), slices=numbers)
        outside = WeakLabels("axial", {2: {DISC: Hint(points=((50, 2, 1),))}})
        with pytest.raises(SAMAutoSegError, match="outside of the image"):
            self.adapt(source, labeled(), weak=outside)
        with pytest.raises(SAMAutoSegError, match="both learned from and held out"):
            volume = labeled((2, 3))
            self.adapt(source, volume, held_out=[volume])
