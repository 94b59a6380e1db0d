"""A prediction refined by itself: it prompts the decoder, whose answers are mixed into it.

The loop is SAM-SP's (arXiv 2408.12364), for any adapted model. How answers and first pass are
combined, when the loop stops and which iteration is kept is designed here. The weight and the
padding were chosen with boxes alone, on labeled slices that were left out of the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.prompted_decoder import FrozenPrompter, Prompter
from SAMAutoSegLib.adapt.self_prompts import (
    PromptKind,
    SelfPrompts,
    log_odds,
    self_prompts,
    shown_only,
)
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone

Decision = Literal[
    "first pass",
    "nothing found, no prompt",
    "sure, no prompt",
    "refined",
    "converged",
    "rejected: area changed",
]

_CONVERGED = 0.99
_AREA_RATIO = (0.5, 2.0)
_SAME_BOX = 0.02

# Log-odds of an answer in the padding around the slice.
_NOT_THERE = -20.0


@dataclass(frozen=True)
class Refinement:
    """How a prediction is refined.

    Attributes:
        iterations: T, how often at most the prediction prompts the decoder; the encoder has no part
            in it.
        keep: the iteration to keep, 0 the first pass; by default the best by the rule of `refine`.
        weight: of the prompted log-odds against those of the first pass, 0 to 1.
        padding: of the boxes, as a share of their width and height.
        sure: a structure whose first pass has at least this expected Dice is not prompted: there is
            little to gain, and each prompt costs as much as the first pass; 1: all are. By default
            what the one that answers says, see `Prompter`.
        prompt: what of the prediction prompts the decoder; by default what it knows best: as in
            the training where a prompted pass was learned, else the box.
    """

    iterations: int = 1
    keep: int | None = None
    weight: float = 0.35
    padding: float = 0.03
    sure: float | None = None
    prompt: PromptKind | None = None

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise SAMAutoSegError(f"refinement iterations {self.iterations}: expected 0 or more")
        if self.keep is not None and not 0 <= self.keep <= self.iterations:
            raise SAMAutoSegError(
                f"refinement iteration {self.keep} cannot be kept: expected 0 to {self.iterations}"
            )
        for name in ("weight", "padding", "sure"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise SAMAutoSegError(f"refinement {name} {value:g}: expected 0 to 1")
        if self.prompt is not None and self.prompt not in get_args(PromptKind):
            raise SAMAutoSegError(
                f"refinement with {self.prompt!r}: expected one of "
                f"{', '.join(get_args(PromptKind))}"
            )


@dataclass(frozen=True)
class Step:
    """What became of one class at one iteration.

    Attributes:
        number: of the class.
        iteration: 0 for the first pass.
        decision: what was done.
        area: of the class afterwards, in pixels of the low-res map.
        box: of the prompt, x0, y0, x1, y1 in the encoder's input; None without a prompt.
        agreement: Dice with the iteration before.
        predicted_iou: the decoder's own estimate of its answer.
        score: by which the kept iteration is chosen, see `refine`; None where there is no choice.
        kept: the result has this iteration's logits of the class.
    """

    number: int
    iteration: int
    decision: Decision
    area: int
    box: tuple[float, float, float, float] | None = None
    agreement: float | None = None
    predicted_iou: float | None = None
    score: float | None = None
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LearnedPrompter:
    """The prompted pass that a model has learned."""

    model: AdaptedModel
    sure: float = 0.92

    @property
    def kind(self) -> PromptKind:
        return self.model.adaptation.prompt

    def __call__(self, embedding: Tensor, prompts: SelfPrompts) -> tuple[Tensor, Tensor]:
        return self.model.answer(embedding, prompts)


def prompter_of(model: AdaptedModel, backbone: Backbone) -> Prompter:
    """The prompted pass that a model has learned; the backbone's own where it has none."""
    return FrozenPrompter(backbone) if model.prompted is None else LearnedPrompter(model)


def refine(
    first: Tensor,
    embedding: Tensor,
    prompter: Prompter,
    side: int,
    how: Refinement,
    inside: Tensor | None = None,
) -> tuple[Tensor, list[Step]]:
    """Let a prediction prompt the decoder, up to T times, all classes in one call each time.

    The answer b_c to the prompt of class c moves its log-odds l_c of the first pass to
    (1 - w) l_c + w b_c, by changing logit c alone; so overlaps are settled by the softmax over all
    classes, and a class without a prompt keeps its logit. The next prompts are made of the result.

    A class leaves the loop when its Dice with the iteration before exceeds 0.99, when its box and
    point are almost the same again and there is no mask, and when its area is less than half or
    more than twice that of the first pass: then the iteration before stays. One that the first pass
    does not find, or that it is sure of, is never prompted.

    Of every class that iteration is kept whose mask has the highest expected Dice under the mean of
    the probabilities of the first pass and of all answers; the first of equals. If all of these
    together are not better by this criterion than the first pass, that is the result.

    Args:
        first: [K, m, m] logits of the pass without a prompt.
        embedding: [1, 256, e, e] of the same slice.
        side: S of the encoder's input.
        inside: bool [m, m], where the slice is shown; nothing is found in the padding around it,
            where the result stays as it is. By default everywhere.

    Returns:
        Logits [K, m, m], with no iteration `first` itself, and what happened.
    """
    inside = torch.ones_like(first[0], dtype=torch.bool) if inside is None else inside
    given, first = first, shown_only(first, inside)
    states, labels = [first], [first.max(0).indices]
    areas, shares = _areas(labels[0], len(first)), first.softmax(0)
    sure = prompter.sure if how.sure is None else how.sure
    answers: dict[int, list[Tensor]] = {}
    trace = []
    for c in range(1, len(first)):
        begun: Decision = "first pass"
        if not areas[c]:
            begun = "nothing found, no prompt"
        elif sure < 1 and _expected_dice(labels[0] == c, shares[c]) >= sure:
            begun = "sure, no prompt"
        else:
            answers[c] = []
        trace.append(Step(c, 0, begun, areas[c]))
    if not how.iterations or not answers:
        return given, _marked(trace, {}, {})
    odds = log_odds(first[None])[0]
    active, places = set(answers), dict[int, Tensor]()
    for iteration in range(1, how.iterations + 1):
        before, earlier = states[-1], labels[-1]
        prompts = self_prompts(before[None], side, how.prompt or prompter.kind, padding=how.padding)
        for c, place in _places(prompts).items():
            if (
                c in active
                and c in places
                and _almost_the_same(places[c], place, side / len(earlier))
            ):
                active.discard(c)
                area = int((earlier == c).sum())
                trace.append(Step(c, iteration, "converged", area, _corners(place), 1.0))
        wanted = [n for n, c in enumerate(prompts.classes.tolist()) if c in active]
        if not wanted:
            break
        prompts = prompts.chosen(torch.tensor(wanted, device=first.device))
        numbers = prompts.classes.tolist()
        places |= _places(prompts)
        answer, iou = prompter(embedding, prompts)
        answer = answer.masked_fill(~inside, _NOT_THERE)
        after = before.clone()
        after[numbers] = first[numbers] + how.weight * (answer - odds[numbers])
        after = shown_only(after, inside)
        now = after.max(0).indices
        sizes = _areas(now, len(first))
        low, high = _AREA_RATIO
        rejected = [c for c in numbers if not low * areas[c] <= sizes[c] <= high * areas[c]]
        if rejected:
            after[rejected] = before[rejected]
            now = after.max(0).indices
            sizes = _areas(now, len(first))
        for n, c in enumerate(numbers):
            answers[c].append(answer[n])
            agreement = _dice(now == c, earlier == c)
            decision: Decision = "refined"
            if c in rejected:
                decision = "rejected: area changed"
            elif agreement > _CONVERGED:
                decision = "converged"
            if decision != "refined":
                active.discard(c)
            box = _corners(prompts.boxes[n])
            trace.append(Step(c, iteration, decision, sizes[c], box, agreement, float(iou[n])))
        states.append(after)
        labels.append(now)
    if how.keep is not None:
        last = min(how.keep, len(states) - 1)
        chosen = torch.where(inside, states[last], given) if last else given
        return chosen, _marked(trace, dict.fromkeys(answers, last), {})
    opinions = _opinions(shares, answers)
    scores = {
        (c, t): _expected_dice(now == c, p) for t, now in enumerate(labels) for c, p in opinions
    }
    kept = {c: -max((scores[c, t], -t) for t in range(len(states)))[1] for c, _ in opinions}
    mixed = first.clone()
    for c, iteration in kept.items():
        mixed[c] = states[iteration][c]
    # Classes of different iterations beside each other may take pixels from one another.
    now = mixed.max(0).indices
    gain = sum(_expected_dice(now == c, p) - scores[c, 0] for c, p in opinions)
    if gain <= 0:
        return given, _marked(trace, {}, scores)
    return torch.where(inside, mixed, given), _marked(trace, kept, scores)


def decisions(trace: Mapping[int, Sequence[Step]]) -> dict[str, int]:
    """How often each decision was made in these slices, under its name, and for how many outlines
    (a structure in a slice) the first pass or its refinement was kept: 'first pass kept' and
    'refinement kept'."""
    counts: dict[str, int] = {}
    for step in (step for steps in trace.values() for step in steps):
        counts[step.decision] = counts.get(step.decision, 0) + 1
        if step.kept and step.area:
            kept = "refinement kept" if step.iteration else "first pass kept"
            counts[kept] = counts.get(kept, 0) + 1
    return counts


def _places(prompts: SelfPrompts) -> dict[int, Tensor]:
    """Box and point of every class, [4] or [6]; of none where masks say more than these."""
    if prompts.masks is not None:
        return {}
    parts = [prompts.boxes] if prompts.points is None else [prompts.boxes, prompts.points]
    return dict(zip(prompts.classes.tolist(), torch.cat(parts, 1), strict=True))


def _almost_the_same(one: Tensor, other: Tensor, pixel: float) -> bool:
    """Neither a side of a box nor a point moved by more than a pixel, or 1/50 of the box's size."""
    size = float((one[2:4] - one[:2]).max())
    return float((one - other).abs().max()) <= max(pixel, _SAME_BOX * size)


def _opinions(shares: Tensor, answers: dict[int, list[Tensor]]) -> list[tuple[int, Tensor]]:
    """Prompted classes with their mean probability over the first pass and the answers."""
    return [
        (c, torch.stack([shares[c], *(answer.sigmoid() for answer in given)]).mean(0))
        for c, given in answers.items()
    ]


def _expected_dice(mask: Tensor, probability: Tensor) -> float:
    return float(2 * (probability * mask).sum() / (mask.sum() + probability.sum()))


def _marked(
    trace: list[Step], kept: dict[int, int], scores: dict[tuple[int, int], float]
) -> list[Step]:
    """The trace with scores, and the mark at what is kept.

    A class that has left the loop is, later on, as it was at its last iteration.
    """
    marked = []
    for step in trace:
        later = [s.iteration for s in trace if s.number == step.number]
        last = max(t for t in later if t <= kept.get(step.number, 0))
        marked.append(
            replace(
                step,
                score=scores.get((step.number, step.iteration)),
                kept=step.iteration == last,
            )
        )
    return marked


def _corners(box: Tensor) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box[:4].tolist()
    return x0, y0, x1, y1


def _areas(labels: Tensor, classes: int) -> list[int]:
    return labels.flatten().bincount(minlength=classes).tolist()


def _dice(a: Tensor, b: Tensor) -> float:
    size = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / size if size else 1.0
