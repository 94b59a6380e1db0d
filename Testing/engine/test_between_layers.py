import pytest
import torch
from torch import nn

from SAMAutoSegLib.engine.between_layers import between_layers
from SAMAutoSegLib.errors import Cancelled


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_something_else_is_done_before_every_layer(network: nn.Module) -> None:
    expected = network(torch.ones(1, 4))
    looks: list[bool] = []
    look_up = lambda: looks.append(torch.is_inference_mode_enabled())  # noqa: E731
    with between_layers(look_up), torch.inference_mode():
        found = network(torch.ones(1, 4))
    assert looks == [False] * 4  # the network itself and its layers
    assert torch.equal(found, expected)
    network(torch.ones(1, 4))
    assert len(looks) == 4


def test_it_may_use_the_same_network(network: nn.Module) -> None:
    results: list[torch.Tensor] = []
    with between_layers(lambda: results.append(network(torch.zeros(1, 4)))):
        found = network(torch.ones(1, 4))
    assert len(results) == 4 and torch.equal(found, network(torch.ones(1, 4)))
    assert all(torch.equal(result, network(torch.zeros(1, 4))) for result in results)


def test_it_may_end_the_computation(network: nn.Module) -> None:
    def cancel() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled), between_layers(cancel):
        network(torch.ones(1, 4))
    with between_layers(lambda: None):
        network(torch.ones(1, 4))


def test_it_is_left_alone_where_autocast_would_hold_for_it(network: nn.Module) -> None:
    looks: list[int] = []
    with between_layers(lambda: looks.append(1)), torch.autocast("cpu", torch.bfloat16):
        network(torch.ones(1, 4))
    assert looks == []
