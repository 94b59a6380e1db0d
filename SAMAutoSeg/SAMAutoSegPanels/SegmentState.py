"""What the Segment button says and whether it can be pressed."""

from dataclasses import dataclass

from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import durationWords, withNotes

IDLE = "idle"
PREPARING = "preparing"
RUNNING = "running"
CANCELLING = "cancelling"


@dataclass(frozen=True)
class SegmentFacts:
    """What decides about the button.

    ``volumeProblem``, ``modelProblem``, ``backboneProblem`` and ``optionsProblem`` are '' where
    there is none; ``lastMessage`` is what the last run ended with, and ``failed`` whether that was
    a failure.
    """

    ready: bool
    hasVolume: bool
    volumeProblem: str = ""
    model: object = None
    modelProblem: str = ""
    backboneProblem: str = ""
    optionsProblem: str = ""
    run: str = IDLE
    fraction: float = 0.0
    secondsLeft: float | None = None
    lastMessage: str = ""
    failed: bool = False


@dataclass(frozen=True)
class SegmentView:
    """``percent`` is None where no bar is shown, -1 where nobody knows how far it is."""

    button: str
    enabled: bool
    toolTip: str
    status: str = ""
    percent: int | None = None
    failed: bool = False


def segmentView(facts):
    if facts.run == PREPARING:
        return SegmentView(_("Cancel"), True, _("Stops here."), _("Preparing the volume..."), -1)
    if facts.run == RUNNING:
        left = ""
        if facts.secondsLeft is not None:
            left = _("Time left: {duration}").format(duration=durationWords(facts.secondsLeft))
        tip = _("Stops here and keeps the slices that are done.")
        return SegmentView(_("Cancel"), True, tip, left, int(100 * facts.fraction))
    if facts.run == CANCELLING:
        tip = _("The slice at hand is being finished.")
        return SegmentView(_("Cancel"), False, tip, _("Stopping..."), int(100 * facts.fraction))
    reason = whyNot(facts)
    # What is yet to be chosen needs no words; what was chosen and does not fit does.
    asked = facts.model is not None or facts.modelProblem
    chosen = facts.hasVolume and (facts.volumeProblem or asked)
    shown = reason if facts.ready and chosen and reason else facts.lastMessage
    tip = reason or _("Segments the volume slice by slice; Slicer stays usable meanwhile.")
    return SegmentView(_("Segment"), not reason, tip, shown, None, bool(reason) or facts.failed)


def whyNot(facts):
    """The first thing that keeps the volume from being segmented, '' if nothing does."""
    if not facts.ready:
        return _("Finish the set-up first: see the line at the top.")
    if not facts.hasVolume:
        return _("Select a volume, or load one: File > Download Sample Data has some.")
    if facts.volumeProblem:
        return facts.volumeProblem
    if facts.modelProblem:
        return facts.modelProblem
    if facts.model is None:
        return _("Select a model, or download one: LiteMedSAM is a good start.")
    if facts.model.problem:
        return facts.model.problem
    if not facts.model.structures:
        return _(
            "{model} knows no structures by itself. Draw some slices under Correct, with clicks"
            " or boxes, then train it under Retrain."
        ).format(model=facts.model.title)
    return facts.backboneProblem or facts.optionsProblem


def doneMessage(slicesDone, slicesAsked, cancelled, notes):
    """What is said when a run has ended."""
    if cancelled and not slicesDone:
        text = _("Stopped before a slice was done.")
    elif cancelled:
        text = _("Stopped: {done} of {count} slices are done and kept.").format(
            done=slicesDone, count=slicesAsked
        )
    else:
        text = _("Done: {count} slices.").format(count=slicesDone)
        if slicesDone == 1:
            text = _("Done: one slice.")
    return withNotes(text, notes)
