"""The feature dropout of a training step."""

import pytest
import torch

from SAMAutoSegLib.methods.method import batch_loss
from SAMAutoSegLib.methods.settings import Settings
from SAMAutoSegLib.methods.training_set import TrainingSet


class Recorder(torch.nn.Module):
    """Keeps the features it is given; the tail tells in which order their axes are."""

    def __init__(self, tail: torch.nn.Module | None) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.features = features
        return torch.zeros(len(features), 2, 4, 4)


@pytest.mark.parametrize("tail", [None, torch.nn.Identity()], ids=["embeddings", "encoder blocks"])
def test_whole_channels_are_blanked_wherever_their_axis_is(tail: torch.nn.Module | None) -> None:
    shape = (2, 64, 5, 5) if tail is None else (2, 5, 5, 64)
    targets = torch.zeros(2, 4, 4, dtype=torch.uint8)
    samples = TrainingSet(torch.ones(shape), targets, (), (), (0, 1))
    model = Recorder(tail)
    batch_loss(model, samples, [0, 1], Settings(feature_dropout=0.5, seed=2**63 - 1), step=9)
    channels_last = model.features.permute(0, 2, 3, 1) if tail is None else model.features
    first = channels_last[:, :1, :1]
    assert torch.equal(channels_last, first.expand_as(channels_last))
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first[0], first[1])
