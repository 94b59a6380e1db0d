"""What can be learned from the corrected slices, how long it takes, and what the buttons say."""

from dataclasses import dataclass

from SAMAutoSegLib.methods.settings import MOST_TEACHING_SLICES, settings_for
from SAMAutoSegPanels.Options import Method
from SAMAutoSegPanels.SlicesToLearn import FEWEST_FOR_HELD_OUT, splitSlices
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import durationWords, listWords, shortened, sliceWords, withNotes

# They adapt the same parts of a SAM, so one goes on from a model of the other.
_ALIKE = {Method.BLO_SAM.value, Method.JOINT.value}

IDLE = "idle"
STARTING = "starting"
RUNNING = "running"
STOPPING = "stopping"
FINISHED = "finished"

# Measured with LiteMedSAM on two cores; elsewhere the real pace is known after a few steps.
_STEP_SECONDS = 0.17
_STEP_SECONDS_GPU = 0.03

# The net that BLO-SAM trains beside the SAM takes as long again. Where it learns from slices
# without labels, too, all takes twice as long.
_WITH_PIXEL_BRANCH = 2.0
_WITH_TEACHING = 2.0


@dataclass(frozen=True)
class RetrainFacts:
    """What decides about the panel.

    ``corrected`` and ``reviewed`` are slice numbers, excluded ones left out; ``problem`` says why
    none are known; ``learned`` and ``heldOut`` are those that earlier trainings learned from and
    held out. ``others``, `OtherSlices`, are those of further volumes that are learned from.
    ``structures`` are the checked names. ``roughly`` stands for a method that adapts a
    model by rough paint; it learns ``known``, the structures of that model, and nothing else.
    ``knownBy`` is the method that model was trained by, ``method`` the chosen one.
    ``modelProblem`` says why that model or its SAM cannot be used.
    """

    ready: bool
    corrected: tuple = ()
    reviewed: tuple = ()
    problem: str = ""
    learned: tuple = ()
    heldOut: tuple = ()
    others: tuple = ()
    structures: tuple = ()
    roughly: bool = False
    known: tuple = ()
    knownBy: str = ""
    method: str = ""
    modelProblem: str = ""
    holdOut: bool = True
    nameProblem: str = ""
    job: str = IDLE
    fraction: float = 0.0
    secondsLeft: float | None = None
    lastMessage: str = ""
    failed: bool = False


@dataclass(frozen=True)
class RetrainView:
    """``percent`` is None where no bar is shown, -1 where nobody knows how far it is."""

    summary: str
    button: str
    enabled: bool
    toolTip: str
    status: str = ""
    percent: int | None = None
    failed: bool = False
    showResult: bool = False
    canChange: bool = True


def retrainView(facts):
    summary = summaryText(facts)
    stop = _("Stop and keep best")
    if facts.job == STARTING:
        text = _("Preparing the slices...")
        return RetrainView(summary, stop, False, text, text, -1, canChange=False)
    if facts.job == RUNNING:
        left = _("Goes on while you work, and when Slicer is closed.")
        if facts.secondsLeft is not None:
            duration = _("Time left: {duration}").format(duration=durationWords(facts.secondsLeft))
            left = f"{duration}. {left}"
        tip = _("Ends the training here. The best model so far is scored and offered.")
        percent = int(100 * facts.fraction)
        return RetrainView(summary, stop, True, tip, left, percent, canChange=False)
    if facts.job == STOPPING:
        text = _("Stopping: the best so far is being scored...")
        return RetrainView(summary, stop, False, text, text, -1, canChange=False)
    if facts.job == FINISHED:
        tip = _("Keep or discard the new model first.")
        return RetrainView(
            summary, _("Retrain"), False, tip, facts.lastMessage, None, facts.failed, True, False
        )
    reason = whyNot(facts)
    tip = reason or _("Trains in the background; Slicer stays usable meanwhile.")
    # What is still to be done stands in the summary; what does not fit stands here.
    usable = facts.ready and not facts.problem and (facts.corrected or facts.reviewed)
    if usable and reason:
        return RetrainView(summary, _("Retrain"), False, tip, reason, None, True)
    status = facts.lastMessage
    return RetrainView(summary, _("Retrain"), not reason, tip, status, None, facts.failed)


def whyNot(facts):
    """The first thing that keeps the training from being started, '' if nothing does."""
    if not facts.ready:
        return _("Finish the set-up first: see the line at the top.")
    if facts.problem:
        return facts.problem
    if not (facts.corrected or facts.reviewed):
        return _("Correct or review some slices first: the training learns from them.")
    if not facts.structures:
        return _("Check at least one structure to learn.")
    if len({name.casefold() for name in facts.structures}) < len(facts.structures):
        return _("Two of the structures have the same name: rename one of them.")
    if facts.roughly and not facts.known:
        return _("WeSAM adapts a model that knows structures: select one under Model.")
    if facts.roughly and {*facts.structures} != {*facts.known}:
        return _("WeSAM adapts all that the model knows. Check these, no others: {names}.").format(
            names=listWords(facts.known, len(facts.known))  # all, or they cannot be checked
        )
    return facts.modelProblem or facts.nameProblem


def summaryText(facts):
    """The line on top: how many slices there are to learn from, and what becomes of them."""
    usable = sorted({*facts.corrected, *facts.reviewed})
    if facts.problem:
        return facts.problem
    if not usable:
        return _("No slice is corrected or reviewed yet.")
    if facts.corrected and facts.reviewed:
        text = _("Learn from {corrected} corrected and {reviewed} reviewed slices").format(
            corrected=len(facts.corrected), reviewed=len(facts.reviewed)
        )
    elif facts.corrected:
        text = _("Learn from the {count} corrected slices").format(count=len(facts.corrected))
    else:
        text = _("Learn from the {count} reviewed slices").format(count=len(facts.reviewed))
    if len(usable) == 1:
        text = _("Learn from slice {number}").format(number=usable[0])
    if facts.roughly:
        return _("{text} as rough paint, and from other slices without any.").format(text=text)
    if facts.others:
        counts = [_countOf(other.name, len(other.slices)) for other in facts.others]
        text = _("{text}, and {others}").format(text=text, others=listWords(counts))
    heldOut = _heldOutWords(facts, usable)
    total = len(usable) + sum(len(other.slices) for other in facts.others)
    if heldOut:
        text = _("{text}; {numbers} held back for the score").format(text=text, numbers=heldOut)
    elif facts.holdOut and total >= FEWEST_FOR_HELD_OUT:
        text = _(
            "{text}. No score: the model has learned them before, so correct others too"
        ).format(text=text)
    elif facts.holdOut:
        text = _("{text}. Too few for a score: hold back needs {count}").format(
            text=text, count=FEWEST_FOR_HELD_OUT
        )
    return " ".join(filter(None, [f"{text}.", _whyAnew(facts)]))


def _whyAnew(facts):
    """Why the training does not go on from the chosen model, where that can be foreseen."""
    if not facts.known or facts.roughly or not facts.structures:
        return ""
    methods = {facts.method, facts.knownBy}
    if len(methods) > 1 and not methods <= _ALIKE and facts.knownBy != "imported":
        return _("The chosen model was trained by another method, so this begins anew.")
    names, known = ({name.casefold() for name in one} for one in (facts.structures, facts.known))
    if names.isdisjoint(known):
        return _("The chosen model knows none of these structures, so this begins anew.")
    return ""


def _heldOutWords(facts, usable):
    """The slices that are held out, those of other volumes counted; '' if none is."""
    total = len(usable) + sum(len(other.slices) for other in facts.others)
    __, numbers = splitSlices(usable, facts.holdOut, facts.learned, facts.heldOut, total)
    words = sliceWords(numbers)
    counts = []
    for other in facts.others:
        __, numbers = splitSlices(other.slices, facts.holdOut, other.learned, other.heldOut, total)
        if numbers:
            counts.append(_countOf(other.name, len(numbers)))
    if words and counts:
        return _("{text}, and {others}").format(text=words, others=listWords(counts))
    return words or listWords(counts)


def _countOf(name, count):
    return _("{count} of {volume}").format(count=count, volume=shortened(name))


def trainingSeconds(budget, method, slices, secondsPerSlice, onGpu=False, others=None):
    """About how long a training takes: every view of every slice is encoded, then the steps.

    Args:
        others: how many slices without labels the volumes have, where there are several.
    """
    settings = settings_for(budget, slices, several=others is not None)
    step = _STEP_SECONDS_GPU if onGpu else _STEP_SECONDS
    encoded = settings["views"] * slices
    if method == Method.BLO_SAM:
        step *= _WITH_PIXEL_BRANCH
        if others:
            step *= _WITH_TEACHING
            encoded += min(others, MOST_TEACHING_SLICES)
    return encoded * secondsPerSlice + settings["steps"] * step


@dataclass(frozen=True)
class ScoreRow:
    """Dice of one structure on the held-out slices; None where it was not measured."""

    name: str
    before: float | None
    after: float | None

    @property
    def change(self):
        """'better', 'worse' or '': differences below 0.005, or that two digits hide, are none."""
        if self.before is None or self.after is None or abs(self.after - self.before) < 0.005:
            return ""
        if f"{self.before:.2f}" == f"{self.after:.2f}":
            return ""
        return "better" if self.after > self.before else "worse"


def scoreRows(before, after):
    """Rows of the table, the mean last; ``before`` and ``after`` are Dice by structure."""
    names = list(dict.fromkeys([*after, *before]))
    rows = [ScoreRow(name, before.get(name), after.get(name)) for name in names]
    if len(rows) > 1:
        rows.append(ScoreRow(_("mean"), _mean(before), _mean(after)))
    return rows


def verdict(rows, notes=(), roughly=False):
    """One sentence above Keep and Discard; ``roughly`` as in `RetrainFacts`."""
    known = [row for row in rows if row.after is not None]
    if roughly and not known:
        text = _("Adapted. Rough paint is no reference, so there is no score: segment and look.")
    elif not known:
        text = _("Trained. There is no honest score: segment and look.")
    elif known[-1].before is None:
        text = _("Trained. Dice {after} on slices that trained nothing.").format(
            after=f"{known[-1].after:.2f}"
        )
    else:
        words = {"better": _("Better"), "worse": _("Worse"), "": _("About the same")}
        text = _("{verdict}: Dice {before} before, {after} now, on slices that trained nothing.")
        text = text.format(
            verdict=words[known[-1].change],
            before=f"{known[-1].before:.2f}",
            after=f"{known[-1].after:.2f}",
        )
    return withNotes(text, notes)


def _mean(scores):
    known = [value for value in scores.values() if value is not None]
    return sum(known) / len(known) if known else None
