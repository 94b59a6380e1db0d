from dataclasses import replace

import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.blo_sam import BLOSAMSettings
from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.methods.settings import Budget, Settings, make_settings
from SAMAutoSegLib.methods.we_sam_prompted import PromptedWeSAMSettings


def test_settings_that_are_not_named_keep_their_defaults() -> None:
    made = make_settings(BLOSAMSettings, {"steps": 7, "split": "half"})
    assert made == BLOSAMSettings(steps=7, split="half")


def test_a_setting_of_another_method_is_refused_with_a_list() -> None:
    with pytest.raises(SAMAutoSegError, match="'split' is not known to this method: it has steps"):
        make_settings(Settings, {"split": "half"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", 2.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("ce_weight", 1.1),
        ("feature_dropout", 1.0),
        ("average", 1.0),
        ("seed", -1),
        ("prompt_learning_rate", 0.0),
        ("prompt_every", 0),
        ("split", "thirds"),
        # as a command line gives them
        ("steps", 1.5),
        ("steps", "many"),
        ("batch", True),
        ("seed", None),
        ("prompt_every", 1.5),
        ("learning_rate", "fast"),
        ("learning_rate", [0.1]),
        ("prompt_learning_rate", "fast"),
        ("split", ["half"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SAMAutoSegError, match=f"setting {name}=.*expected") as caught:
        make_settings(BLOSAMSettings, {name: value})
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_number_is_a_number_too() -> None:
    assert make_settings(Settings, {"learning_rate": 1}).learning_rate == 1


def test_the_rate_warms_up_to_its_peak_and_ends_near_zero() -> None:
    settings = Settings(steps=100, warmup=9)
    rates = [settings.rate_at(step, 0.01) for step in range(100)]
    assert rates[0] == pytest.approx(0.001) and max(rates) == rates[9]
    assert 0.009 < rates[9] < 0.01
    assert rates[50] == pytest.approx(0.01 * 0.5**0.9)
    assert 0 < rates[99] < 2e-4


def test_a_larger_budget_trains_longer() -> None:
    steps = [
        make_settings(Settings, {"budget": budget}).steps
        for budget in ("quick", "standard", "thorough")
    ]
    assert steps == sorted(steps) and len(set(steps)) == 3


def test_what_is_asked_for_wins_over_the_budget() -> None:
    made = make_settings(Settings, {"budget": "quick", "steps": 5}, several=True)
    assert made.steps == 5 and made.views > 1
    assert make_settings(Settings, {"budget": "quick", "views": 1}, several=True).views == 1


@pytest.mark.parametrize("budget", ["quick", "standard", "thorough"])
def test_slices_of_several_patients_are_seen_in_more_views_as_far_as_the_steps_reach(
    budget: Budget,
) -> None:
    one = make_settings(Settings, {"budget": budget}, slices=8)
    several = make_settings(Settings, {"budget": budget}, slices=8, several=True)
    assert several == replace(one, views=4 * one.views)
    many = make_settings(Settings, {"budget": budget}, slices=10_000, several=True)
    assert many == replace(one, views=1)
    assert make_settings(Settings, {"budget": budget}, slices=10_000) == many
    some = make_settings(Settings, {"budget": "standard"}, slices=200, several=True)
    assert some.views * 200 == some.steps * some.batch


def test_a_budget_says_nothing_of_what_a_method_makes_no_use_of() -> None:
    assert make_settings(PromptedWeSAMSettings, {"budget": "thorough"}).views == 1


def test_unknown_names_are_refused_with_what_there_is() -> None:
    for budget in ("endless", ["quick"]):
        with pytest.raises(SAMAutoSegError, match="budget .*: expected one of quick, standard"):
            make_settings(Settings, {"budget": budget})
    with pytest.raises(SAMAutoSegError, match="'boost': expected one of .*blo-sam"):
        method_named("boost")
