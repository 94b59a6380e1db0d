from dataclasses import replace

import pytest
from SAMAutoSegPanels.Options import Budget, Method
from SAMAutoSegPanels.RetrainState import (
    FINISHED,
    RUNNING,
    STARTING,
    STOPPING,
    RetrainFacts,
    retrainView,
    scoreRows,
    summaryText,
    trainingSeconds,
    verdict,
)
from SAMAutoSegPanels.SlicesToLearn import OtherSlices, splitSlices

from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.methods.settings import settings_for

FINE = RetrainFacts(ready=True, corrected=(3, 9, 15), structures=("liver",))


def test_with_corrected_slices_the_button_trains() -> None:
    view = retrainView(FINE)
    assert (view.button, view.enabled, view.canChange) == ("Retrain", True, True)
    assert view.summary.startswith("Learn from the 3 corrected slices")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ready": False}, "set-up"),
        ({"corrected": ()}, "Correct or review"),
        ({"structures": ()}, "at least one structure"),
        ({"modelProblem": "A SAM is needed"}, "A SAM is needed"),
        ({"nameProblem": "Give the model a name"}, "Give the model a name"),
        ({"structures": ("tumor", "Tumor")}, "have the same name: rename one"),
        ({"roughly": True}, "select one under Model"),
        ({"roughly": True, "known": ("liver", "spleen")}, "Check these, no others: liver, spleen"),
        ({"roughly": True, "known": tuple("abcdef")}, "no others: a, b, c, d, e, f."),
    ],
)
def test_what_is_missing_is_said_and_the_button_waits(change: dict, words: str) -> None:
    view = retrainView(replace(FINE, **change, lastMessage="liver v2 is the chosen model."))
    assert not view.enabled and words in view.toolTip
    # Where there are slices to learn from, it is not left to be found in the tip.
    seen = FINE.ready and change.get("ready", True) and change.get("corrected", FINE.corrected)
    assert (words in view.status) == view.failed == bool(seen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"method": "joint"}, ""),
        ({"knownBy": "imported"}, ""),
        ({"method": "sam-sp"}, "trained by another method, so this begins anew"),
        ({"known": ("spleen",)}, "knows none of these structures, so this begins anew"),
        ({"known": ("spleen", "Liver")}, ""),
        ({"known": (), "knownBy": ""}, ""),
    ],
)
def test_that_the_chosen_model_is_not_gone_on_from_is_said_before(change: dict, words: str) -> None:
    fine = replace(FINE, known=("liver",), knownBy="blo-sam", method="blo-sam")
    assert ("anew" in summaryText(replace(fine, **change))) == bool(words)
    assert words in summaryText(replace(fine, **change))


def test_while_it_runs_the_button_stops_and_nothing_can_be_changed() -> None:
    view = retrainView(replace(FINE, job=RUNNING, fraction=0.5, secondsLeft=65))
    assert (view.button, view.enabled, view.percent) == ("Stop and keep best", True, 50)
    assert "Time left: about a minute" in view.status and not view.canChange
    assert not retrainView(replace(FINE, job=STARTING)).enabled
    assert not retrainView(replace(FINE, job=STOPPING)).enabled


def test_a_finished_training_asks_for_a_decision_first() -> None:
    view = retrainView(replace(FINE, job=FINISHED, lastMessage="Better: ..."))
    assert view.showResult and not view.enabled and view.status == "Better: ..."


def test_rough_paint_is_no_reference_so_nothing_is_held_back() -> None:
    facts = replace(FINE, corrected=tuple(range(1, 10)), roughly=True, known=("liver",))
    view = retrainView(facts)
    assert view.enabled and "as rough paint, and from other slices" in view.summary
    assert "held back" not in view.summary


def test_an_adaptation_without_a_score_says_why() -> None:
    assert verdict([], ["kept"], roughly=True).startswith("Adapted. Rough paint is no reference")
    assert verdict([], ["kept"], roughly=True).endswith("Kept.")


def test_too_few_slices_for_a_score_is_said_and_one_slice_is_no_plural() -> None:
    assert "Too few for a score" in summaryText(FINE)
    assert summaryText(replace(FINE, corrected=(7,))).startswith("Learn from slice 7")
    assert summaryText(replace(FINE, corrected=())) == "No slice is corrected or reviewed yet."


def test_enough_slices_hold_some_back_and_say_which() -> None:
    told = summaryText(replace(FINE, corrected=(3, 9, 15), reviewed=(20, 25, 30)))
    assert told == "Learn from 3 corrected and 3 reviewed slices; 15, 25 held back for the score."


def test_slices_that_all_were_learned_give_no_score_and_that_is_told() -> None:
    six = (3, 9, 15, 20, 25, 30)
    facts = replace(FINE, corrected=six, learned=six)
    assert splitSlices(six, True, six) == ([*six], [])
    assert "learned them before" in summaryText(facts)
    more = replace(facts, corrected=(3, 4, 5, 6, 7, 9, 15, 30))
    assert "5, 7 held back" in summaryText(more)


OTHERS = (OtherSlices("CT 2", 40, (4, 8, 20)), OtherSlices("CT 3", 30, (7,)))


def test_other_volumes_that_are_learned_from_are_named_with_what_they_hold_back() -> None:
    told = summaryText(replace(FINE, others=OTHERS))
    assert told == (
        "Learn from the 3 corrected slices, and 3 of CT 2, 1 of CT 3; 9, and 1 of CT 2 held back"
        " for the score."
    )
    few = summaryText(replace(FINE, others=OTHERS[1:]))
    assert few.endswith("and 1 of CT 3. Too few for a score: hold back needs 6.")
    told = summaryText(replace(FINE, corrected=(3, 9), others=OTHERS))
    assert told.endswith("1 of CT 3; 1 of CT 2 held back for the score.")
    known = (replace(OTHERS[0], learned=(8,)), OTHERS[1])
    assert "held back" in summaryText(replace(FINE, others=known))
    assert "learned them before" in summaryText(replace(FINE, others=known, learned=(9,)))
    alone = replace(FINE, others=OTHERS, holdOut=False)
    assert summaryText(alone).endswith("and 3 of CT 2, 1 of CT 3.")


def test_several_volumes_take_longer_than_one_with_as_many_slices() -> None:
    one = trainingSeconds("standard", Method.BLO_SAM, 8, 0.5)
    few = trainingSeconds("standard", Method.BLO_SAM, 8, 0.5, others=40)
    many = trainingSeconds("standard", Method.BLO_SAM, 8, 0.5, others=400)
    assert one < few < many == trainingSeconds("standard", Method.BLO_SAM, 8, 0.5, others=4000)


def test_a_larger_budget_takes_longer_and_a_gpu_less() -> None:
    quick, standard, thorough = (trainingSeconds(b.value, Method.JOINT, 6, 0.5) for b in Budget)
    assert quick < standard < thorough
    assert trainingSeconds("standard", Method.JOINT, 6, 0.1, onGpu=True) < standard / 3


def test_the_net_beside_the_sam_takes_its_time() -> None:
    methods = (Method.JOINT, Method.BLO_SAM)
    for budget in Budget:
        plain, beside = (trainingSeconds(budget.value, method, 6, 0.5) for method in methods)
        assert beside > plain


def test_the_table_compares_every_structure_and_the_mean() -> None:
    rows = scoreRows({"liver": 0.80, "spleen": None}, {"liver": 0.90, "spleen": 0.5})
    assert [(row.name, row.before, row.after) for row in rows[:2]] == [
        ("liver", 0.80, 0.90),
        ("spleen", None, 0.5),
    ]
    assert rows[2].name == "mean" and rows[2].after == pytest.approx(0.7)
    assert [row.change for row in rows] == ["better", "", "worse"]


def test_the_verdict_is_honest() -> None:
    better = verdict(scoreRows({"liver": 0.8}, {"liver": 0.9}))
    assert better == "Better: Dice 0.80 before, 0.90 now, on slices that trained nothing."
    assert verdict(scoreRows({"liver": 0.9}, {"liver": 0.8})).startswith("Worse")
    # 0.95 before, 0.95 now: nobody would understand "better".
    assert verdict(scoreRows({"liver": 0.946}, {"liver": 0.954})).startswith("About the same")
    assert verdict(scoreRows({"liver": 0.944}, {"liver": 0.946})).startswith("About the same")
    assert verdict(scoreRows({"liver": 0.9}, {"liver": 0.902})).startswith("About the same")
    assert "no honest score" in verdict([])
    assert verdict(scoreRows({}, {"liver": 0.9})) == (
        "Trained. Dice 0.90 on slices that trained nothing."
    )


def test_the_lists_offer_what_the_library_has() -> None:
    for method in Method:
        assert method_named(method.value)
    for budget in Budget:
        assert settings_for(budget.value)
