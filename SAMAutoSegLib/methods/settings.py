"""Settings that all training methods share, and the budgets a user chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from SAMAutoSegLib.errors import SAMAutoSegError

Budget = Literal["quick", "standard", "thorough"]

# Where slices of several volumes are learned from: what another view adds is another patient's
# shape. Chosen on patients of the benchmark's pools, who test nothing.
_TIMES_THE_VIEWS = 4

# Of the steps of a training that begins with slices that the model knows: one part in so many.
_SHARE_TO_SETTLE = 3

# Of slices without labels; more take longer to encode than to learn from, and tell little that
# these do not.
MOST_TEACHING_SLICES = 160


@dataclass(frozen=True)
class Settings:
    """How long, how fast and on what loss.

    Attributes:
        steps: optimizer steps of the weights.
        batch: slices per step.
        learning_rate: of AdamW; warmed up over `warmup` steps, then lowered to zero as
            (1 - step / steps) ** 0.9 (the polynomial schedule of the SAM adapters).
        weight_decay: of the weights; the prompt embedding has none.
        ce_weight: share of cross-entropy in the loss; the rest is Dice.
        views: how many views of every slice are encoded: the slice itself, and slightly rotated,
            scaled and shifted ones with other contrast.
        view_strength: how much views differ, 1 is mild; 0: 1 for slices of one volume, in which
            the place of an organ is knowledge, 2 for slices of several.
        feature_dropout: share of the embedding's channels blanked at a step, against overfitting.
        average: decay of the exponential average of the weights that becomes the model; 0: none.
        patience: stop where the smoothed loss has not fallen for this share of all steps, 30 at
            least; 0: never. A short pause says nothing while the learning rate is high.
        gradient_clip: longer gradients of a step are shortened to this length, because with few
            slices a batch a single one can be far out of line; 0: none is.
        pixel_steps: of the pixel branch for each of the weights, see `PixelBranch`; 0: no branch. A
            training that goes on from a model has the branch that this model has; see `finetune`
            for one that has none. Needs labeled slices.
        pixel_weight: of what that branch says, where the SAM has 1; 0: as much where one volume is
            learned from, half as much where up to seven slices of several are, a quarter if it
            sees these smaller than they are, and else what eight slices or more of several
            volumes tell themselves, see `cross_fit`; more once it is taught.
        teach_branch: whether a new pixel branch learns besides from slices without labels, where
            slices of several volumes are learned from; see `branch_teaching.py`.
        spare_every: which of these slices do not teach, see `spared_slices`; 0: all may.
        count_absent: whether the Dice loss counts classes that a batch does not hold.
        seed: of everything random.
        shaping: names of those that say what is adapted; a training that goes on from a model of
            the same method takes them from it.
        unused: names of those that the method makes no use of; they keep their defaults.
    """

    shaping: ClassVar[frozenset[str]] = frozenset()
    unused: ClassVar[tuple[str, ...]] = ()

    steps: int = 300
    batch: int = 2
    learning_rate: float = 8e-3
    weight_decay: float = 0.1
    warmup: int = 10
    ce_weight: float = 0.2
    views: int = 2
    view_strength: float = 0.0
    feature_dropout: float = 0.2
    average: float = 0.95
    patience: float = 0.5
    gradient_clip: float = 1.0
    count_absent: bool = False
    pixel_steps: int = 0
    pixel_weight: float = 0.0
    teach_branch: bool = True
    spare_every: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 1_000_000),
            ("batch", 1, 1024),
            ("learning_rate", 1e-9, 1.0),
            ("weight_decay", 0.0, 10.0),
            ("warmup", 0, 1_000_000),
            ("ce_weight", 0.0, 1.0),
            ("views", 1, 1000),
            ("view_strength", 0.0, 5.0),
            ("feature_dropout", 0.0, 0.9),
            ("average", 0.0, 0.9999),
            ("patience", 0.0, 1.0),
            ("gradient_clip", 0.0, 1e6),
            ("pixel_steps", 0, 100),
            ("pixel_weight", 0.0, 10.0),
            ("spare_every", 0, 1000),
            ("seed", 0, 2**63 - 1),
        ):
            require_between(name, getattr(self, name), low, high)
        for name in ("count_absent", "teach_branch"):
            if not isinstance(getattr(self, name), bool):
                raise SAMAutoSegError(
                    f"setting {name} {getattr(self, name)}: expected true or false"
                )
        for field in fields(self):
            if field.name in self.unused and getattr(self, field.name) != field.default:
                raise SAMAutoSegError(
                    f"setting {field.name}={getattr(self, field.name)}: expected {field.default}, "
                    "since this method makes no use of it"
                )

    @classmethod
    def recipes(cls, slices: int) -> dict[str, dict[str, Any]]:
        """Named settings of this method for so many labeled slices: what its authors published."""
        return {}

    def rate_at(self, step: int, peak: float) -> float:
        """The learning rate at a step that starts from 0."""
        return peak * min(1.0, (step + 1) / (self.warmup + 1)) * (1 - step / self.steps) ** 0.9

    def steps_to_settle(self, goes_on: bool, several: bool) -> int:
        """In so many steps from the start the latest weights count as the best, see `train`.

        Args:
            goes_on: the training goes on from a model.
            several: it learns slices of several volumes.
        """
        return settled(self.steps) if goes_on else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def settled(steps: int) -> int:
    """Of so many steps that begin with known slices, those after which a loss can be compared."""
    return steps // _SHARE_TO_SETTLE


def spared_slices(count: int, every: int) -> range:
    """Of so many slices each `every`-th, to be left out where slices without labels teach.

    A slice that has taught gives no honest score any more once it is labeled, see `unseen`. These
    may be held out of a later training.
    """
    return range(every // 2, count, every) if every else range(0)


def require_between(name: str, value: Any, low: float, high: float) -> None:
    """`SAMAutoSegError` unless a setting is a number in range, whole if the limits are."""
    whole = isinstance(low, int)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high):
        kind = "a whole number" if whole else "a number"
        raise SAMAutoSegError(f"setting {name}={value}: expected {kind} from {low} to {high}")


def require_one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """`SAMAutoSegError` unless a setting is one of these."""
    if value not in choices:
        raise SAMAutoSegError(f"setting {name}={value}: expected {' or '.join(choices)}")


def settings_for(budget: Budget, slices: int = 1, *, several: bool = False) -> dict[str, Any]:
    """The settings that a budget stands for.

    Args:
        slices: how many are labeled.
        several: whether they are of several volumes: more views are encoded then.

    No more views are encoded than the steps could use, and so of very many slices just one.

    Raises:
        SAMAutoSegError: there is no such budget.
    """
    budgets: dict[Budget, dict[str, Any]] = {
        "quick": {"steps": 160, "views": 1},
        "standard": {"steps": 300, "views": 2},
        "thorough": {"steps": 900, "views": 4},
    }
    if budget not in list(budgets):  # it may be no name at all
        raise SAMAutoSegError(f"budget {budget!r}: expected one of {', '.join(get_args(Budget))}")
    chosen = budgets[budget]
    views = chosen["views"] * (_TIMES_THE_VIEWS if several else 1)
    chosen["views"] = max(1, min(views, chosen["steps"] * Settings.batch // slices))
    return chosen


def make_settings(
    kind: type[Settings], values: dict[str, Any], slices: int = 1, *, several: bool = False
) -> Settings:
    """Settings of a method.

    Args:
        values: where they differ from the defaults, from those of the budget named "budget", or
            from those of the recipe named "recipe", which says itself how long it takes.
        slices: how many are labeled.
        several: whether they are of several volumes.

    Raises:
        SAMAutoSegError: a setting, a recipe or a budget that there is not, or out of range.
    """
    values = dict(values)
    recipe, budget = values.pop("recipe", None), values.pop("budget", None)
    if recipe is not None:
        recipes = kind.recipes(slices)
        if recipe not in list(recipes):  # it may be no name at all
            there = ", ".join(recipes) or "none"
            raise SAMAutoSegError(f"recipe {recipe!r} is not known to this method: it has {there}")
        values = recipes[recipe] | values
    elif budget is not None:
        given = settings_for(budget, slices, several=several)
        values = {name: given[name] for name in given.keys() - {*kind.unused}} | values
    known = [field.name for field in fields(kind)]
    unknown = set(values) - set(known)
    if unknown:
        raise SAMAutoSegError(
            f"setting {min(unknown)!r} is not known to this method: it has {', '.join(known)}"
        )
    return kind(**values)
