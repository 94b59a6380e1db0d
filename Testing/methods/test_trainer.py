from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.methods import trainer
from SAMAutoSegLib.methods.blo_sam import BLOSAM, BLOSAMSettings
from SAMAutoSegLib.methods.joint import Joint
from SAMAutoSegLib.methods.losses import IGNORED, mean_dice
from SAMAutoSegLib.methods.method import Method
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.trainer import TrainingResult, train
from SAMAutoSegLib.methods.training_set import TrainingSet
from SAMAutoSegLib.progress import Progress

METHODS = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Joint, Settings(steps=7, batch=1, warmup=2)),
        (BLOSAM, BLOSAMSettings(steps=7, batch=1, warmup=2, prompt_every=2)),
    ],
)

NewModel = Callable[..., AdaptedModel]
Samples = Callable[..., TrainingSet]


def cancel_after(step: int) -> Progress:
    told = 0

    def progress(fraction: float, message: str) -> None:
        nonlocal told
        told += 1
        if told == step:
            raise Cancelled("cancelled")

    return progress


def same(one: AdaptedModel, other: AdaptedModel) -> bool:
    state = other.learned_state()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.learned_state().items())


def first_value(model: AdaptedModel) -> dict[str, float]:
    """A score that depends on the weights, with the name that scores have."""
    return {"held_out_dice": float(model.prompt_embedding[0, 0])}


@METHODS
@pytest.mark.parametrize("cancelled_at", [1, 4, 6, 7])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    kind: type[Method],
    settings: Settings,
    cancelled_at: int,
    samples: Samples,
    new_model: NewModel,
    tmp_path: Path,
) -> None:
    training_set = samples()
    whole, parted = new_model(), new_model()
    scores: dict[str, Any] = {"score": first_value, "score_every": 3}
    wanted = train(kind, whole, training_set, settings, **scores)

    checkpoint = tmp_path / "state"
    resumable: dict[str, Any] = {"checkpoint": checkpoint, **scores}
    progress = cancel_after(cancelled_at)
    cut = train(kind, parted, training_set, settings, progress=progress, **resumable)
    assert cut.stopped == "cancelled" and cut.steps == cancelled_at and checkpoint.exists()
    another = new_model()
    found = train(kind, another, training_set, settings, resume=True, **resumable)
    assert same(another, whole)
    assert found.history == wanted.history
    assert (found.steps, found.best_step, found.stopped) == (7, wanted.best_step, wanted.stopped)


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(
    samples: Samples, new_model: NewModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings, training_set = Settings(steps=6, batch=2), samples()
    whole = new_model()
    wanted = train(Joint, whole, training_set, settings)

    def crash(fraction: float, message: str) -> None:
        if fraction > 0.6:
            raise RuntimeError("crash")

    checkpoint = tmp_path / "state"
    with pytest.raises(RuntimeError):
        train(Joint, new_model(), training_set, settings, checkpoint=checkpoint, progress=crash)
    another = new_model()
    found = train(Joint, another, training_set, settings, checkpoint=checkpoint, resume=True)
    assert same(another, whole) and found.history == wanted.history


@METHODS
def test_the_seed_decides_everything(
    kind: type[Method], settings: Settings, samples: Samples, new_model: NewModel
) -> None:
    training_set, models, histories = samples(), [], []
    for seed in (1, 1, 2):
        models.append(new_model())
        torch.manual_seed(len(models))  # what went before has no part in it
        result = train(kind, models[-1], training_set, replace(settings, seed=seed))
        histories.append(result.history)
    assert same(models[0], models[1]) and histories[0] == histories[1]
    assert not same(models[0], models[2])


@pytest.fixture
def interrupted(
    samples: Samples, new_model: NewModel, tmp_path: Path
) -> Callable[..., TrainingResult]:
    """Interrupts a training, then goes on with what is given differently."""
    checkpoint = tmp_path / "state"
    settings = Settings(steps=4, batch=1)
    training_set = samples()
    train(
        Joint,
        new_model(),
        training_set,
        settings,
        checkpoint=checkpoint,
        progress=cancel_after(2),
    )

    def go_on(
        kind: type[Method] = Joint,
        settings: Settings = settings,
        training_set: TrainingSet = training_set,
        **adaptation: int,
    ) -> TrainingResult:
        model = new_model(**adaptation)
        return train(kind, model, training_set, settings, checkpoint=checkpoint, resume=True)

    return go_on


def test_a_checkpoint_of_another_training_is_refused_and_kept(
    interrupted: Callable[..., TrainingResult], samples: Samples, tmp_path: Path
) -> None:
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(SAMAutoSegError, match="a training with other samples"):
        interrupted(training_set=samples((0, 2, 4)))
    with pytest.raises(SAMAutoSegError, match="a training with other settings"):
        interrupted(settings=Settings(steps=5, batch=1))
    with pytest.raises(SAMAutoSegError, match="a training with other adaptation"):
        interrupted(lora_rank=2)
    with pytest.raises(SAMAutoSegError, match="a training with other method"):
        interrupted(kind=BLOSAM, settings=BLOSAMSettings(steps=4, batch=1))
    assert (tmp_path / "state").read_bytes() == before
    assert interrupted().steps == 4


@pytest.mark.parametrize("damage", ["half", "text", "empty", "other"])
def test_a_damaged_checkpoint_is_refused(
    interrupted: Callable[..., TrainingResult], damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    content = path.read_bytes()
    path.write_bytes(
        {"half": content[: len(content) // 2], "text": b"step 2", "empty": b"", "other": b""}[
            damage
        ]
    )
    if damage == "other":
        torch.save({"version": 1, "weights": torch.zeros(3)}, path)
    with pytest.raises(SAMAutoSegError, match="state is damaged and cannot be resumed") as caught:
        interrupted()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_version_or_none_is_refused(
    interrupted: Callable[..., TrainingResult], tmp_path: Path
) -> None:
    path = tmp_path / "state"
    values = torch.load(path, weights_only=True)
    torch.save({**values, "version": 99}, path)
    with pytest.raises(SAMAutoSegError, match="written by another version"):
        interrupted()
    path.unlink()
    with pytest.raises(SAMAutoSegError, match="nothing to resume: .* start anew"):
        interrupted()


class Scripted:
    """A method whose losses are given; the prompt embedding holds the number of the step."""

    name: ClassVar[str] = "scripted"
    settings_type: ClassVar[type[Settings]] = Settings
    losses: ClassVar[list[float]] = []
    diverges_at: ClassVar[int | None] = None

    def __init__(self, model: AdaptedModel, samples: TrainingSet, settings: Settings) -> None:
        self.model = model

    def step(self, number: int) -> dict[str, float]:
        with torch.no_grad():
            diverged = number + 1 == self.diverges_at
            self.model.prompt_embedding.fill_(float("inf") if diverged else number + 1)
        return {"loss": self.losses[number]}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {}

    def notes(self) -> list[str]:
        return ["a script"]


@pytest.fixture
def scripted(
    new_model: NewModel, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[TrainingResult, float]]:
    """Runs a script of losses; gives the result and the step whose weights are in the model."""

    def run(losses: list[float], **options: Any) -> tuple[TrainingResult, float]:
        monkeypatch.setattr(Scripted, "losses", losses)
        values = {"steps": len(losses), "average": 0.0, "patience": 0}
        settings = Settings(**{**values, **options.pop("settings", {})})
        model = new_model()
        result = train(Scripted, model, samples((2, 4)), settings, **options)
        assert not model.training
        return result, float(model.prompt_embedding.detach().mean())

    return run


Script = Callable[..., tuple[TrainingResult, float]]


def test_the_weights_of_the_lowest_loss_are_kept(scripted: Script) -> None:
    result, kept = scripted([5.0, 4.0, 3.0, 9.0, 9.0])
    assert (result.steps, result.best_step, result.stopped, kept) == (5, 3, "", 3.0)
    assert [entry["loss"] for entry in result.history] == [5.0, 4.0, 3.0, 9.0, 9.0]
    assert [entry["step"] for entry in result.history] == [1, 2, 3, 4, 5]
    assert result.notes == ["a script"]


def test_the_low_loss_that_a_known_slice_begins_with_is_not_taken_for_the_best(
    scripted: Script,
) -> None:
    losses = [0.1, 5.0, 4.0, 3.0, 2.0, 2.5, *[9.0] * 40]
    patient = {"settings": {"patience": 0.5}}
    result, kept = scripted(losses, **patient)
    assert (result.best_step, result.stopped, kept) == (1, "no more gain", 1.0)
    result, kept = scripted(losses, settle=3, **patient)
    # The smoothed loss still rises for a while, as it remembers the first one.
    assert (result.best_step, kept) == (3, 3.0) and result.stopped == "no more gain"
    falling = [0.1, *[5.0] * 20, *[1.0] * 20]
    assert scripted(falling, settle=21)[0].best_step == len(falling)
    # Cancelled before that, the latest is kept.
    result, kept = scripted(losses, settle=20, progress=cancel_after(5))
    assert (result.best_step, kept) == (5, 5.0)


def test_cancelling_keeps_the_best_so_far(scripted: Script) -> None:
    result, kept = scripted([5.0, 4.0, 9.0, 9.0, 1.0], progress=cancel_after(4))
    assert (result.steps, result.best_step, result.stopped, kept) == (4, 2, "cancelled", 2.0)


def test_a_checkpoint_that_cannot_be_written_costs_no_weights(
    scripted: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    (tmp_path / "file").write_text("no folder")
    options: dict[str, Any] = {"checkpoint": tmp_path / "file" / "state"}
    result, kept = scripted([5.0, 4.0, 3.0, 9.0], progress=cancel_after(4), **options)
    assert (result.stopped, kept) == ("cancelled", 3.0)
    _, note = result.notes
    assert "could not be kept to be gone on with: cannot write" in note


def test_no_gain_for_long_ends_the_training(scripted: Script) -> None:
    losses = [3.0, 2.0] + [2.9] * 98
    result, kept = scripted(losses, settings={"patience": 0.4})
    assert (result.steps, result.best_step, result.stopped, kept) == (42, 2, "no more gain", 2.0)
    assert scripted(losses)[0].steps == 100
    assert scripted(losses[:40], settings={"patience": 0.1})[0].steps == 32


@pytest.mark.parametrize(
    ("losses", "why"),
    [([3.0, 2.0, 4.0], ""), ([2.0] + [2.9] * 50, "no more gain"), ([2.0, float("nan")], "no num")],
)
def test_a_training_that_had_ended_gives_its_model_again(
    scripted: Script, tmp_path: Path, losses: list[float], why: str
) -> None:
    options: dict[str, Any] = {"checkpoint": tmp_path / "state", "settings": {"patience": 0.1}}
    wanted, kept = scripted(losses, **options)
    told: list[float] = []
    found, again = scripted(losses, resume=True, progress=lambda f, m: told.append(f), **options)
    assert why in found.stopped and again == kept and not told
    assert found == replace(wanted, seconds=found.seconds)


def test_the_model_is_an_average_of_the_last_steps(scripted: Script) -> None:
    losses = [1.0 / n for n in range(1, 101)]
    result, kept = scripted(losses, settings={"average": 0.9})
    assert result.best_step == 100
    # The mean age of an exponential average is decay / (1 - decay) steps.
    assert kept == pytest.approx(100 - 9, abs=0.2)


def test_a_loss_that_is_no_number_ends_the_training_with_the_best_so_far(scripted: Script) -> None:
    nan = float("nan")
    result, kept = scripted([3.0, 2.0, nan, 1.0])
    assert (result.steps, result.best_step, kept) == (2, 2, 2.0)
    assert result.stopped == "the loss is no number any more"
    with pytest.raises(SAMAutoSegError, match="learning_rate"):
        scripted([nan, 1.0])


def test_weights_that_are_no_numbers_are_not_kept_though_their_loss_was_one(
    scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "diverges_at", 3)
    result, kept = scripted([3.0, 2.0, 1.0, float("nan")])
    assert (result.steps, result.best_step, kept) == (2, 2, 2.0)
    assert result.stopped == "the loss is no number any more"
    monkeypatch.setattr(Scripted, "diverges_at", 1)
    with pytest.raises(SAMAutoSegError, match="gradient is no number: lower .* learning_rate"):
        scripted([3.0, 2.0])


def test_scores_are_recorded_and_choose_nothing(scripted: Script) -> None:
    told: list[float] = []

    def score(model: AdaptedModel) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        told.append(float(model.prompt_embedding.mean()))
        return {"held_out_dice": -told[-1]}

    result, kept = scripted([5.0, 4.0, 3.0, 2.0, 1.0], score=score, score_every=2)
    assert told == [2.0, 4.0, 5.0, 5.0] and kept == 5.0
    scores = {e["step"]: e["held_out_dice"] for e in result.history if "held_out_dice" in e}
    assert scores == {2: -2.0, 4: -4.0, 5: -5.0}
    assert 0 < result.scoring_seconds <= result.seconds


def test_the_model_that_is_left_is_scored_not_that_of_the_last_step(scripted: Script) -> None:
    def score(model: AdaptedModel) -> dict[str, float]:
        return {"held_out_dice": float(model.prompt_embedding.mean())}

    result, kept = scripted([5.0, 4.0, 3.0, 9.0, 9.0], score=score, score_every=2)
    assert kept == result.score["held_out_dice"] == 3.0
    stopped, _ = scripted([5.0, 4.0, 9.0], score=score, progress=cancel_after(1))
    assert stopped.score == {"held_out_dice": 1.0}  # before any score was due
    assert scripted([5.0])[0].score == {}


def test_scoring_changes_nothing(samples: Samples, new_model: NewModel) -> None:
    settings, training_set = Settings(steps=4, batch=1), samples()
    plain, scored = new_model(), new_model()
    train(Joint, plain, training_set, settings)
    train(Joint, scored, training_set, settings, score=first_value, score_every=1)
    assert same(plain, scored)


def test_progress_tells_step_and_loss(scripted: Script) -> None:
    lines: list[tuple[float, str]] = []
    scripted([5.0, 4.0], progress=lambda fraction, line: lines.append((fraction, line)))
    assert lines == [
        (0.5, "training: step 1 of 2, loss 5.000"),
        (1.0, "training: step 2 of 2, loss 4.900"),
    ]


@pytest.mark.parametrize("kind", [Joint, BLOSAM])
def test_one_slice_can_be_learned_by_heart(
    kind: type[Method], samples: Samples, new_model: NewModel
) -> None:
    values: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 0.0, "feature_dropout": 0.0}
    settings = kind.settings_type(steps=80, warmup=5, average=0.5, **values)
    training_set = samples((4,))
    model = new_model()
    result = train(kind, model, training_set, settings)
    with torch.no_grad():
        predicted = model(training_set.features).argmax(1)
    inside = training_set.targets != IGNORED
    assert mean_dice(predicted[inside], training_set.targets[inside], 3) > 0.9
    losses = [next(v for n, v in entry.items() if "loss" in n) for entry in result.history]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_blocks_of_the_encoder_are_trained_too_if_asked_to(
    samples: Samples, new_model: NewModel, precision: torch.dtype
) -> None:
    training_set = samples((2, 4), encoder_blocks=1, precision=precision)
    model = new_model(encoder_blocks=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(Joint, model, training_set, Settings(steps=3, batch=2, average=0.0))
    after = model.state_dict()
    different = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert different == set(model.learned_state())
    assert any(name.startswith("tail.") for name in different)
