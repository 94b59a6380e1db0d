"""The course of a training as columns for a plot."""

from dataclasses import dataclass, field

# What one step's loss says drowns in noise: a running mean over about ten steps is drawn.
_SMOOTHING = 0.9


@dataclass
class TrainingCurve:
    """Loss at every step reported and Dice on held-out slices, as they come in."""

    steps: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    scoreSteps: list = field(default_factory=list)
    scores: list = field(default_factory=list)

    def add(self, event):
        """Take in one event of a training job; True if the curve has a new point."""
        if event["event"] == "loss":
            # Methods name their losses; the first is the one that is watched.
            loss = next(value for name, value in event.items() if "loss" in name)
            before = self.losses[-1] if self.losses else loss
            self.steps.append(event["step"])
            self.losses.append(_SMOOTHING * before + (1 - _SMOOTHING) * loss)
            return True
        if event["event"] == "score" and event.get("held_out_dice") is not None:
            self.scoreSteps.append(event["step"])
            self.scores.append(event["held_out_dice"])
            return True
        return False
