"""What a step of each method trains, on what."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import PROMPT, AdaptedModel
from SAMAutoSegLib.methods.blo_sam import BLOSAM, BLOSAMSettings
from SAMAutoSegLib.methods.joint import Joint
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.method import Method, adamw, apply_gradients, batch_loss
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet

SETTINGS = BLOSAMSettings(steps=50, batch=1, feature_dropout=0.0, prompt_every=1, split="half")

State = dict[str, torch.Tensor]


def changed(before: State, after: State) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@dataclass
class Steps:
    """For every step of an optimizer: its name, the slices it saw, the tensors it changed."""

    method: Method
    model: AdaptedModel
    samples: TrainingSet
    seen: list[tuple[str, list[int], set[str]]] = field(default_factory=list)
    _slices: list[int] = field(default_factory=list)
    _before: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.register_forward_pre_hook(lambda _, inputs: self._notice(inputs[0]))
        for name, optimizer in self.method.optimizers().items():
            optimizer.register_step_pre_hook(lambda *_: self._remember())
            optimizer.register_step_post_hook(lambda *_, name=name: self._record(name))

    def _notice(self, features: torch.Tensor) -> None:
        self._slices = [
            n
            for feature in features
            for n, own in enumerate(self.samples.features)
            if torch.equal(own, feature)
        ]

    def _remember(self) -> None:
        self._before = self.model.state_dict(keep_vars=False)
        self._before = {name: tensor.clone() for name, tensor in self._before.items()}

    def _record(self, name: str) -> None:
        different = changed(self._before, self.model.state_dict())
        self.seen.append((name, self._slices, different))

    def of(self, name: str) -> list[list[int]]:
        return [slices for level, slices, _ in self.seen if level == name]

    def run(self, count: int) -> "Steps":
        for number in range(count):
            self.method.step(number)
        return self


@pytest.fixture
def blo_steps(
    samples: Callable[..., TrainingSet], new_model: Callable[..., AdaptedModel]
) -> Callable[..., Steps]:
    def build(settings: BLOSAMSettings = SETTINGS, slices: tuple[int, ...] = (0, 2, 4, 6)) -> Steps:
        model, training_set = new_model(), samples(slices)
        return Steps(BLOSAM(model, training_set, settings), model, training_set)

    return build


def test_slices_of_d1_train_the_weights_only_and_those_of_d2_the_prompt_only(
    blo_steps: Callable[..., Steps],
) -> None:
    steps = blo_steps().run(4)
    assert [name for name, _, _ in steps.seen] == ["weights", "prompt"] * 4
    for name, slices, different in steps.seen:
        if name == "prompt":
            assert different == {PROMPT} and set(slices) <= {2, 3}
        else:
            assert different and PROMPT not in different and set(slices) <= {0, 1}
            assert "decoder.mask_tokens.weight" in different


def test_labels_of_d2_do_not_reach_the_weights(
    samples: Callable[..., TrainingSet], new_model: Callable[..., AdaptedModel]
) -> None:
    training_set = samples()
    targets = training_set.targets.clone()
    targets[2:] = targets[2:].flip(1)
    states = []
    for labels in (training_set.targets, targets):
        model = new_model()
        BLOSAM(model, replace(training_set, targets=labels), SETTINGS).step(0)
        states.append(model.learned_state())
    assert changed(*states) == {PROMPT}


def test_each_level_takes_the_steps_of_an_adamw_with_its_own_rate_and_decay(
    samples: Callable[..., TrainingSet], new_model: Callable[..., AdaptedModel]
) -> None:
    made, clip = samples((2, 5)), 1e-3
    training_set = replace(made, features=made.features.double())
    levels = {"weights": (4e-3, 0.3), "prompt": (2e-2, 0.7)}
    (rate, decay), (prompt_rate, prompt_decay) = levels.values()
    settings = replace(
        SETTINGS,
        steps=5,
        warmup=1,
        gradient_clip=clip,
        learning_rate=rate,
        weight_decay=decay,
        prompt_learning_rate=prompt_rate,
        prompt_weight_decay=prompt_decay,
    )
    model, plain = new_model().double(), new_model().double()
    method = BLOSAM(model, training_set, settings)
    learned = {"weights": plain.weights(), "prompt": [plain.prompt_embedding]}
    optimizers = {
        level: torch.optim.AdamW(learned[level], weight_decay=decay, fused=False)
        for level, (_, decay) in levels.items()
    }
    for number in range(4):
        method.step(number)
        for part, (level, optimizer) in enumerate(optimizers.items()):
            plain.zero_grad()
            batch_loss(plain, training_set, [part], settings, number).backward()
            torch.nn.utils.clip_grad_norm_(learned[level], clip)
            warm = 0.5 if number == 0 else 1.0
            optimizer.param_groups[0]["lr"] = levels[level][0] * warm * (1 - number / 5) ** 0.9
            optimizer.step()
    expected = plain.learned_state()
    for name, value in model.learned_state().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [BLOSAM, Joint])
def test_no_gradient_is_left_behind(
    kind: type[Method],
    samples: Callable[..., TrainingSet],
    new_model: Callable[..., AdaptedModel],
) -> None:
    model = new_model()
    method = kind(model, samples(), SETTINGS)
    for number in range(2):
        method.step(number)
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", [BLOSAM, Joint])
def test_what_is_frozen_stays_as_it_was(
    kind: type[Method],
    samples: Callable[..., TrainingSet],
    new_model: Callable[..., AdaptedModel],
) -> None:
    model = new_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = kind(model, samples(), SETTINGS)
    for number in range(2):
        method.step(number)
    assert changed(before, model.state_dict()) == set(model.learned_state())


@pytest.mark.parametrize("level", ["weights", "prompt"])
def test_a_pass_visits_every_slice_of_a_part_once(
    blo_steps: Callable[..., Steps], level: str
) -> None:
    # The published code takes the first slice of D2 at every step.
    visits = blo_steps(slices=(0, 2, 4, 6, 8)).run(12).of(level)
    size = {"weights": 3, "prompt": 2}[level]
    for start in range(0, 12, size):
        one_pass = sorted(n for slices in visits[start : start + size] for n in slices)
        assert one_pass == ([0, 1, 2] if level == "weights" else [3, 4])
    assert len({tuple(slices) for slices in visits}) == size


def test_the_prompt_goes_through_all_its_slices_when_it_learns_more_rarely(
    blo_steps: Callable[..., Steps],
) -> None:
    steps = blo_steps(replace(SETTINGS, prompt_every=3)).run(12)
    assert len(steps.of("weights")) == 12 and len(steps.of("prompt")) == 4
    assert sorted(n for slices in steps.of("prompt") for n in slices) == [2, 2, 3, 3]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_weights_and_prompt_never_learn_from_the_same_slices_in_a_round(
    blo_steps: Callable[..., Steps], batch: int
) -> None:
    settings = replace(SETTINGS, split="rotate", batch=batch)
    steps = blo_steps(settings, (0, 1, 3, 5, 6, 8))
    groups = steps.samples.groups
    steps.run(12)
    for lower, upper in zip(steps.of("weights"), steps.of("prompt"), strict=True):
        assert lower and upper
        assert not {groups[n] for n in lower} & {groups[n] for n in upper}
    for level in ("weights", "prompt"):
        assert {n for slices in steps.of(level) for n in slices} == set(range(6))


@pytest.mark.parametrize(
    ("slices", "said"), [((4,), "one slice cannot be split"), ((3, 4, 5), "are neighbors")]
)
def test_too_few_slices_train_all_the_same_with_a_note(
    blo_steps: Callable[..., Steps], slices: tuple[int, ...], said: str
) -> None:
    steps = blo_steps(slices=slices).run(3)
    assert said in steps.method.notes()[0]
    assert all(steps.of("weights")) and all(steps.of("prompt"))


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([2, 3], "the prompt embedding learns from, so the weights never see it"),
        ([0, 1], "the weights learn from, so the prompt embedding never sees it"),
    ],
)
def test_a_structure_that_one_level_never_sees_is_named(
    samples: Callable[..., TrainingSet],
    new_model: Callable[..., AdaptedModel],
    shown: list[int],
    said: str,
) -> None:
    training_set = samples()
    targets = training_set.targets.clone()
    hidden = [n for n in range(4) if n not in shown]
    targets[hidden] = torch.where(targets[hidden] == 2, 0, targets[hidden])
    targets[targets == IGNORED] = 0
    targets[0, 0] = IGNORED  # beyond the edge of one slice only: no structure
    partial = replace(training_set, targets=targets)
    (note,) = BLOSAM(new_model(), partial, SETTINGS).notes()
    assert note.startswith("bar: ") and said in note
    assert BLOSAM(new_model(), partial, replace(SETTINGS, split="rotate")).notes() == []
    assert BLOSAM(new_model(), partial, replace(SETTINGS, refit="always")).notes() == []
    assert BLOSAM(new_model(), training_set, SETTINGS).notes() == []


def test_joint_training_goes_through_all_slices_and_trains_everything(
    samples: Callable[..., TrainingSet], new_model: Callable[..., AdaptedModel]
) -> None:
    model, training_set = new_model(), samples()
    plain = Settings(steps=50, batch=2, feature_dropout=0.0)
    steps = Steps(Joint(model, training_set, plain), model, training_set).run(6)
    visits = steps.of("all")
    for start in range(0, 6, 2):
        assert sorted(visits[start] + visits[start + 1]) == [0, 1, 2, 3]
    assert len({tuple(sorted(slices)) for slices in visits}) > 2
    assert all(different == set(model.learned_state()) for _, _, different in steps.seen)
    assert steps.method.notes() == []


def test_dropout_blanks_whole_channels_of_the_features(
    samples: Callable[..., TrainingSet], new_model: Callable[..., AdaptedModel]
) -> None:
    model, training_set = new_model(), samples()
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    method = Joint(model, training_set, Settings(steps=50, batch=4, feature_dropout=0.5))
    method.step(0)
    method.step(0)
    blanked = (seen[0] == 0).all(dim=(2, 3))
    assert blanked.float().mean().item() == pytest.approx(0.5, abs=0.06)
    whole = training_set.features.abs().sum(dim=(1, 2, 3))
    assert seen[0][~blanked].abs().sum() == pytest.approx(whole.sum().item(), rel=0.2)
    assert torch.equal(seen[0], seen[1])


def test_a_transposed_gradient_moves_the_weights_that_it_is_of() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    gradient = torch.zeros(3, 2)
    gradient[2, 0] = 1.0
    apply_gradients(adamw([weight], 0.0), [gradient.T], rate=0.1, clip=0.0)
    assert weight.nonzero().tolist() == [[0, 2]]
