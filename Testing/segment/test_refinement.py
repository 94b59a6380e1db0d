"""Self-prompted refinement: when it changes what, and that it never makes things up."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from SAMAutoSegLib.adapt.adapted_file import FORMAT, Adapted, load_adapted, save_adapted
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.self_prompts import PromptKind, SelfPrompts, log_odds
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.segment import refinement
from SAMAutoSegLib.segment.refinement import Refinement, refine
from SAMAutoSegLib.segment.volume import segment_volume

SIDE, M = 128, 32


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:M, :M]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def logits_of(*masks: np.ndarray, sure: float = 4.0) -> torch.Tensor:
    """[K, m, m]: every mask a class of its own with log-odds of about +- `sure`."""
    logits = torch.zeros(len(masks) + 1, M, M)
    for n, mask in enumerate(masks, start=1):
        logits[n] = torch.where(torch.from_numpy(mask), sure, -sure)
    return logits


class Answering:
    """A prompter that gives set masks, by class; remembers what it was asked."""

    kind: PromptKind = "box"
    sure: float = 0.95

    def __init__(self, *masks: np.ndarray | None, odds: float = 8.0) -> None:
        self.masks, self.odds, self.asked = masks, odds, list[SelfPrompts]()

    def __call__(self, embedding: torch.Tensor, prompts: SelfPrompts):
        self.asked.append(prompts)
        given = [self.masks[c - 1] for c in prompts.classes.tolist()]
        assert all(mask is not None for mask in given)
        answers = torch.stack(
            [torch.where(torch.from_numpy(m), self.odds, -self.odds) for m in given]
        )
        return answers, torch.full((len(given),), 0.9)


EMBEDDING = torch.zeros(1, 256, 8, 8)


def run(first: torch.Tensor, prompter, iterations: int = 2, sure: float | None = 1.0, **how):
    return refine(first, EMBEDDING, prompter, SIDE, Refinement(iterations, sure=sure, **how))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_no_iteration_is_the_first_pass_itself() -> None:
    first = logits_of(disc(10, 10, 5))
    chosen, trace = run(first, Answering(disc(12, 12, 5)), iterations=0)
    assert chosen is first
    assert [(s.iteration, s.decision, s.kept) for s in trace] == [(0, "first pass", True)]


def test_log_odds_are_averaged_by_weight_where_no_other_class_changes() -> None:
    first = logits_of(disc(10, 10, 5), disc(25, 25, 3))
    answer = disc(12, 10, 5)
    second = Answering(answer, disc(25, 25, 3), odds=3.0)
    with_one = run(first, second, iterations=1, keep=1, weight=0.25)[0]
    wanted = first.clone()
    for c, mask in ((1, answer), (2, disc(25, 25, 3))):
        odds = log_odds(first[None])[0, c]
        given = torch.where(torch.from_numpy(mask), 3.0, -3.0)
        wanted[c] = first[c] + 0.25 * (given - odds)
    torch.testing.assert_close(with_one, wanted)


def test_every_answer_moves_the_first_pass_and_not_what_the_last_one_made_of_it() -> None:
    first, prompter = logits_of(disc(10, 10, 5)), Answering(disc(13, 10, 5), odds=20.0)
    once, twice = (run(first, prompter, iterations=n, keep=n, weight=0.25)[0] for n in (1, 2))
    assert len(prompter.asked) == 3  # the second run asked with another box again
    torch.testing.assert_close(twice, once)


def test_answers_that_are_right_raise_the_score_of_a_wrong_first_pass() -> None:
    truth, wrong = disc(14, 14, 7), disc(16, 14, 6)
    chosen, trace = run(logits_of(wrong, sure=2.0), Answering(truth))
    assert dice(chosen.argmax(0).numpy() == 1, truth) > dice(wrong, truth) + 0.05
    kept = [s for s in trace if s.kept]
    assert len(kept) == 1 and kept[0].iteration >= 1 and kept[0].predicted_iou == pytest.approx(0.9)


def test_a_first_pass_that_is_confirmed_stays_as_it_is() -> None:
    mask = disc(14, 14, 7)
    prompter = Answering(mask)
    chosen, trace = run(logits_of(mask), prompter, iterations=5)
    assert np.array_equal(chosen.argmax(0).numpy() == 1, mask)
    assert [s.decision for s in trace] == ["first pass", "converged"]
    assert trace[1].agreement == 1.0 and len(prompter.asked) == 1


def test_what_is_found_in_the_padding_around_the_slice_prompts_nothing() -> None:
    inside = torch.zeros(M, M, dtype=torch.bool)
    inside[:20] = True
    beyond, both = disc(27, 20, 4), disc(8, 8, 4) | disc(27, 8, 5)  # the larger part is no slice's
    first = logits_of(beyond, both, disc(12, 24, 3))
    answer = disc(9, 8, 4) | disc(27, 8, 5)
    prompter = Answering(None, answer, disc(12, 25, 3))
    how = Refinement(1, keep=1, sure=1.0)
    chosen, trace = refine(first, EMBEDDING, prompter, SIDE, how, inside)
    (asked,) = prompter.asked
    assert asked.classes.tolist() == [2, 3] and float(asked.boxes[:, 3].max()) <= 20 * SIDE / M
    assert trace[0].decision == "nothing found, no prompt"
    assert trace[1].area == int(disc(8, 8, 4).sum())
    assert torch.equal(chosen[:, 20:], first[:, 20:])
    assert torch.equal(chosen[2, :20] > 0, torch.from_numpy(answer[:20]))
    # Nor where the best iteration is kept.
    prompter = Answering(None, disc(9, 8, 4) | ~disc(15, 15, 22), disc(12, 25, 3))
    chosen, _ = refine(first / 4, EMBEDDING, prompter, SIDE, replace(how, keep=None), inside)
    assert not torch.equal(chosen[2], first[2] / 4)
    assert torch.equal(chosen[:, 20:], first[:, 20:] / 4)


def test_only_structures_that_the_first_pass_is_not_sure_of_are_prompted() -> None:
    first = logits_of(disc(10, 10, 5), disc(24, 24, 5), sure=8.0)
    first[2] *= 0.1
    prompter = Answering(None, disc(25, 24, 5))
    chosen, trace = run(first, prompter, iterations=1, sure=None)
    assert [prompts.classes.tolist() for prompts in prompter.asked] == [[2]]
    assert torch.equal(chosen[1], first[1])
    assert [(s.decision, s.kept) for s in trace if s.number == 1] == [("sure, no prompt", True)]


def test_a_first_pass_that_is_sure_of_all_is_the_result() -> None:
    first = logits_of(disc(10, 10, 5), sure=8.0)
    chosen, trace = run(first, Answering(None), sure=0.95)
    assert chosen is first and [s.decision for s in trace] == ["sure, no prompt"]


def test_the_same_box_is_not_asked_twice() -> None:
    # The answer changes the inside only, so the second box is the first.
    ring = disc(14, 14, 8) & ~disc(14, 14, 5)
    prompter = Answering(disc(14, 14, 8))
    _, trace = run(logits_of(ring, sure=1.0), prompter, iterations=4)
    assert len(prompter.asked) == 1
    assert [s.decision for s in trace] == ["first pass", "refined", "converged"]


def test_a_class_that_is_not_found_gets_no_prompt_and_keeps_its_logits() -> None:
    first = logits_of(disc(10, 10, 5), np.zeros((M, M), bool))
    prompter = Answering(disc(11, 11, 5), None)
    chosen, trace = run(first, prompter)
    assert all(2 not in prompts.classes for prompts in prompter.asked)
    assert torch.equal(chosen[2], first[2])
    (step,) = [s for s in trace if s.number == 2]
    assert step.decision == "nothing found, no prompt" and step.box is None and step.kept


def test_an_empty_prediction_is_not_even_decoded() -> None:
    first = logits_of(np.zeros((M, M), bool))
    prompter = Answering(None)
    chosen, _ = run(first, prompter)
    assert chosen is first and prompter.asked == []


@pytest.mark.parametrize("radius", [2.0, 13.0])
def test_an_area_that_collapses_or_explodes_keeps_the_iteration_before(radius: float) -> None:
    first = logits_of(disc(15, 15, 6), disc(28, 28, 3), sure=1.0)
    prompter = Answering(disc(15, 15, radius), disc(28, 28, 3))
    chosen, trace = run(first, prompter, iterations=3)
    steps = [s for s in trace if s.number == 1]
    assert [s.decision for s in steps] == ["first pass", "rejected: area changed"]
    assert torch.equal(chosen[1], first[1]) and steps[0].kept


@pytest.mark.parametrize("seed", range(8))
def test_the_result_is_never_worse_than_the_first_pass_by_its_own_criterion(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def anywhere() -> np.ndarray:
        return disc(*rng.uniform(8, 24, 2), rng.uniform(4, 8))

    first = logits_of(anywhere(), anywhere(), anywhere(), sure=float(rng.uniform(0.5, 5)))
    answers = [anywhere() for _ in range(3)]
    prompter = Answering(*answers)
    chosen, trace = run(first, prompter, iterations=3)
    given: dict[int, list[torch.Tensor]] = {}
    for prompts in prompter.asked:
        for c in prompts.classes.tolist():
            mask = torch.from_numpy(answers[c - 1])
            given.setdefault(c, []).append(torch.where(mask, 8.0, -8.0))
    total = 0.0
    for c, opinions in given.items():
        share = torch.stack([first.softmax(0)[c], *(o.sigmoid() for o in opinions)]).mean(0)

        def expected(logits: torch.Tensor, c=c, share=share) -> float:
            mask = logits.argmax(0) == c
            return float(2 * share[mask].sum() / (mask.sum() + share.sum()))

        total += expected(chosen) - expected(first)
        scores = {s.iteration: s.score for s in trace if s.number == c}
        assert scores[0] == pytest.approx(expected(first), abs=1e-5)
    assert total >= -1e-6


def test_any_iteration_can_be_kept() -> None:
    first = logits_of(disc(16, 14, 6), sure=1.0)
    steps = [run(first, Answering(disc(13, 13, 7)), iterations=2, keep=n) for n in (0, 1, 2)]
    assert steps[0][0] is first
    assert not torch.equal(steps[1][0], first)
    for n, (_, trace) in enumerate(steps):
        assert [s.iteration for s in trace if s.kept] == [n]


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(SAMAutoSegError, match="refinement iterations -1: expected 0 or more"):
        Refinement(-1)
    with pytest.raises(SAMAutoSegError, match="iteration 3 cannot be kept: expected 0 to 2"):
        Refinement(2, keep=3)
    with pytest.raises(SAMAutoSegError, match="refinement weight 2: expected 0 to 1"):
        Refinement(weight=2)
    with pytest.raises(SAMAutoSegError, match="refinement with 'mask': expected one of box, box-"):
        Refinement(prompt="mask")  # type: ignore[arg-type]


def test_on_average_iterations_gain_and_do_not_lose_it_where_the_decoder_knows_the_shape() -> None:
    # A world of discs, and a decoder that draws the disc that fits into a box.
    class Drawing:
        kind: PromptKind = "box"

        def __call__(self, embedding: torch.Tensor, prompts: SelfPrompts):
            drawn = []
            for x0, y0, x1, y1 in (prompts.boxes / 4).tolist():
                mask = disc((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2, (x1 - x0 + y1 - y0) / 4)
                drawn.append(torch.where(torch.from_numpy(mask), 6.0, -6.0))
            return torch.stack(drawn), torch.ones(len(drawn))

    rng = np.random.default_rng(0)
    scores = []
    for _ in range(12):
        truth = disc(*rng.uniform(10, 22, 2), rng.uniform(5, 8))
        # A ragged first pass: pixels lost at random.
        lost = truth & (rng.random((M, M)) < 0.35)
        first = logits_of(truth & ~lost, sure=2.0)
        found = [run(first, Drawing(), iterations=3, keep=n, padding=0.0)[0] for n in range(4)]
        scores.append([dice(z.argmax(0).numpy() == 1, truth) for z in found])
    means = np.mean(scores, axis=0)
    # Boxes of a ragged disc are a little too small, hence not strictly.
    assert (means[1:] > means[0] + 0.05).all() and (np.diff(means) > -0.01).all()


def test_a_volume_is_encoded_once_whatever_the_iterations(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    encode, calls = tiny.backbone.encode, []

    def count(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        calls.append(len(images))
        return encode(images, before_last)

    tiny.backbone.encode = count
    plain = segment_volume(volume, tiny)
    first = segment_volume(volume, tiny, refinement=Refinement(0))
    refined = segment_volume(volume, tiny, refinement=Refinement(3))
    assert calls == [1] * 15
    assert np.array_equal(first.labels, plain.labels) and plain.trace == {}
    assert list(refined.trace) == [0, 1, 2, 3, 4]
    for steps in refined.trace.values():
        assert {step.number for step in steps} == {1, 2}
        assert len([step for step in steps if step.kept]) == 2


def test_no_iteration_gives_the_logits_of_the_pass_without_a_prompt_bit_for_bit(
    segmenter, scan, monkeypatch
) -> None:
    volume, tiny = scan(), segmenter()
    seen: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    shown = type(tiny.backbone.spec).logits_to_slice
    for refined in (False, True):

        def record(spec, low_res, *place, refined=refined):
            seen[refined].append(low_res.clone())
            return shown(spec, low_res, *place)

        monkeypatch.setattr(type(tiny.backbone.spec), "logits_to_slice", record)
        how = Refinement(0) if refined else None
        segment_volume(volume, tiny, refinement=how)
    assert len(seen[True]) == 5
    assert all(torch.equal(a, b) for a, b in zip(seen[False], seen[True], strict=True))


def test_the_prompts_are_of_the_kind_that_is_known_unless_another_is_asked_for() -> None:
    first = logits_of(disc(16, 14, 6), sure=1.0)
    for known, asked_for, points, masks in (
        ("box", None, False, False),
        ("box-mask", None, False, True),
        ("box-mask", "box-point", True, False),
        ("box", "box-point-mask", True, True),
    ):
        prompter = Answering(disc(13, 13, 7))
        prompter.kind = known
        run(first, prompter, iterations=1, prompt=asked_for)
        (prompts,) = prompter.asked
        assert (prompts.points is not None, prompts.masks is not None) == (points, masks)


def test_the_same_box_with_another_mask_is_asked_again() -> None:
    ring = disc(14, 14, 8) & ~disc(14, 14, 5)
    prompter = Answering(disc(14, 14, 8))
    run(logits_of(ring, sure=1.0), prompter, iterations=2, prompt="box-mask")
    one, two = prompter.asked
    assert torch.equal(one.boxes, two.boxes) and not torch.equal(one.masks, two.masks)


@pytest.mark.parametrize("kind", get_args(PromptKind))
def test_a_model_read_back_is_refined_as_it_was_trained_bit_for_bit(
    segmenter, scan, tiny_file, tmp_path, kind: PromptKind
) -> None:
    base = load_backbone(tiny_file, device="cpu", precision=torch.float32)
    adaptation = Adaptation(prompted=True, prompt=kind)
    torch.manual_seed(3)
    model = AdaptedModel(base, 3, adaptation).eval()
    with torch.no_grad():
        for values in model.learned():
            values += 0.03 * torch.randn(values.shape)
    card = replace(
        segmenter().card,
        backbone_sha256=base.sha256,
        input=base.spec,
        adaptation=adaptation,
    )
    save_adapted(tmp_path / "model.safetensors", Adapted(model, card, base))
    again = load_adapted(
        tmp_path / "model.safetensors", base=tiny_file, device="cpu", precision=torch.float32
    )
    assert again.card.adaptation.prompt == kind
    embedding = torch.randn(1, 256, 8, 8)
    first = logits_of(disc(10, 10, 6), disc(22, 20, 5), sure=1.0)
    found = []
    with torch.no_grad():
        for one, backbone in ((model, base), (again.model, again.backbone)):
            prompter = refinement.prompter_of(one, backbone)
            assert prompter.kind == kind
            found.append(refine(first, embedding, prompter, SIDE, Refinement(2, keep=2))[0])
    assert torch.equal(*found) and not torch.equal(found[0], first)


def test_a_model_file_from_before_there_were_kinds_is_refined_with_boxes(
    segmenter, tiny_file, tmp_path
) -> None:
    base = load_backbone(tiny_file, device="cpu", precision=torch.float32)
    model = AdaptedModel(base, 3, Adaptation(prompted=True)).eval()
    card = replace(
        segmenter().card, backbone_sha256=base.sha256, input=base.spec, adaptation=model.adaptation
    )
    entries = card.to_json()
    del entries["adaptation"]["prompt"]
    header = {"format": FORMAT, "format_version": "1", "card": json.dumps(entries)}
    file = tmp_path / "former.safetensors"
    save_file(model.learned_state(), file, header)
    again = load_adapted(file, base=tiny_file, device="cpu")
    assert again.card == card
    assert refinement.prompter_of(again.model, again.backbone).kind == "box"


def test_a_model_with_a_prompted_pass_of_its_own_asks_that(segmenter, monkeypatch) -> None:
    tiny = segmenter()
    assert isinstance(refinement.prompter_of(tiny.model, tiny.backbone), refinement.FrozenPrompter)
    tiny.model.prompted = torch.nn.Identity()
    monkeypatch.setattr(tiny.model, "answer", lambda *asked: asked)
    assert refinement.prompter_of(tiny.model, tiny.backbone)(1, 2) == (1, 2)
