"""The model that a training begins with: new, or with what a former one knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.with_structures import HEAD_BY_CLASS, take_over
from SAMAutoSegLib.images.structure import Structure, matched
from SAMAutoSegLib.provenance import origins
from SAMAutoSegLib.sam.backbone import Backbone


@dataclass(frozen=True)
class StartingModel:
    """What a training begins with.

    Attributes:
        source: the card of the former model that it goes on from, if it does.
        knows_more: that model was learned from more slices than there are now, for the same
            structures. Its pixel branch, a net that would forget them, is not to be trained.
        notes: what the user should know, one sentence each.
    """

    model: AdaptedModel
    source: ModelCard | None = None
    knows_more: bool = False
    notes: list[str] = field(default_factory=list)


def starting_model(
    start: Adapted | None,
    structures: Sequence[Structure],
    wanted: Adaptation,
    backbone: Backbone,
    slices: int,
    across: bool = False,
) -> StartingModel:
    """Make the model that a training begins with.

    A former model is gone on from where the same parts of the backbone are adapted; it keeps the
    pixel branch that it has or has not. One that has none gets one if it was learned from no more
    slices than there are now: a branch that knows a few slices should not speak into a model that
    knows many. Where the structures change, a branch that is to be trained is new: one that goes on
    finds the new structure less well (docs/methods.md).

    Args:
        structures: that are to be learned.
        wanted: what is to be adapted.
        slices: how many there are to learn from.
        across: they are of several volumes.
    """
    classes = len(structures) + 1
    if start is None:
        return StartingModel(AdaptedModel(backbone, classes, wanted))
    known = [_number(partner, start) for _, partner in matched(structures, start.card.structures)]
    same = known == list(range(len(start.card.structures)))
    if why_not := _hindrance(start, wanted, backbone, known, same):
        note = f"the training started anew, because the former model {why_not}"
        return StartingModel(AdaptedModel(backbone, classes, wanted), notes=[note])
    adaptation, learned_from = start.model.adaptation, start.card.most_slices_learned
    more = same and learned_from is not None and learned_from > slices
    few = learned_from is not None and learned_from <= slices
    new_branch = bool(wanted.pixel_side) and (not same if adaptation.pixel_side else few)
    if new_branch:
        adaptation = wanted
    elif wanted.pixel_side and not more:
        # Its branch learns on, so it has as much to say as a new one; less than it had if that was
        # of one patient, and there are others now.
        weight = wanted.pixel_weight
        if not (across and _is_of_one_volume(start.card)):
            weight = max(adaptation.pixel_weight, weight)
        adaptation = replace(adaptation, pixel_weight=weight)
    model = AdaptedModel(backbone, classes, adaptation)
    take_over(model, start.model, known, pixels=not new_branch)
    notes = [] if same else [_what_goes_on(structures, known)]
    return StartingModel(model, source=start.card, knows_more=more, notes=notes)


def _is_of_one_volume(card: ModelCard) -> bool:
    """Whether no training of a model has learned from several at once."""
    images = (origin.get("images") or () for origin in origins(card.provenance))
    return all(sum(bool(image.get("slices")) for image in one) <= 1 for one in images)


def _hindrance(
    start: Adapted, wanted: Adaptation, backbone: Backbone, known: list[int | None], same: bool
) -> str:
    """Why the former model cannot be gone on from, or ''."""
    if (start.card.backbone_sha256, start.card.input) != (backbone.sha256, backbone.spec):
        return "was learned on another backbone"
    has = start.model.adaptation
    if has != replace(wanted, pixel_side=has.pixel_side, pixel_weight=has.pixel_weight):
        return "adapts other parts"
    if same:
        return ""
    if has.head != HEAD_BY_CLASS or not any(number is not None for number in known):
        return "has other structures"
    return ""


def _number(structure: Structure | None, start: Adapted) -> int | None:
    return None if structure is None else start.card.structures.index(structure)


def _what_goes_on(structures: Sequence[Structure], known: Sequence[int | None]) -> str:
    old, new = (
        [s.name for s, number in zip(structures, known, strict=True) if (number is None) == is_new]
        for is_new in (False, True)
    )
    went_on = f"the training went on from the former model for {', '.join(old)}"
    return f"{went_on}, and began anew for {', '.join(new)}" if new else went_on
