"""Muon for the matrices of layers, and AdamW for all other weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from echoingpixels.train.optimizer import MUON_RATE, MuonAdamW, optimizer_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def loss(self) -> torch.Tensor:
        hidden = self.embed(torch.arange(5))
        for layer in self.layers:
            hidden = hidden + layer(hidden).relu()
        return nn.functional.cross_entropy(self.head(hidden), torch.arange(5) % 3)


def steps(net: Net, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        optimizer.zero_grad()
        net.loss().backward()
        optimizer.step()


def test_muon_has_the_matrices_of_layers_and_adamw_all_else() -> None:
    net = Net()
    optimizer = optimizer_of("muon", net.named_parameters(), 0.01, 0.0)
    assert isinstance(optimizer, MuonAdamW)
    matrices, others = (part.param_groups[0]["params"] for part in optimizer.parts)
    assert {id(weight) for weight in matrices} == {id(layer.weight) for layer in net.layers}
    assert len(others) == len(list(net.parameters())) - 2
    assert [group["lr"] for group in optimizer.param_groups] == [MUON_RATE * 0.01, 0.01]


def test_frozen_weights_are_in_no_group_and_without_layers_all_is_adamw() -> None:
    net = Net()
    net.layers.requires_grad_(False)
    optimizer = optimizer_of("muon", net.named_parameters(), 0.01, 0.0)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert len(optimizer.param_groups[0]["params"]) == 3


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_training_lowers_the_loss(name: str) -> None:
    net = Net()
    before = float(net.loss().detach())
    steps(net, optimizer_of(name, net.named_parameters(), 0.01, 0.0), 30)
    assert float(net.loss().detach()) < 0.3 * before


def test_an_update_of_a_matrix_is_orthogonal() -> None:
    net = Net()
    before = deepcopy(net.layers[0].weight.detach())
    steps(net, optimizer_of("muon", net.named_parameters(), 0.01, 0.0), 1)
    sizes = torch.linalg.svdvals(net.layers[0].weight.detach() - before)
    assert float(sizes[0] / sizes[3]) < 2  # Newton-Schulz iterations leave 0.7 to 1.2; the gradient has rank 4


def test_a_run_that_resumes_equals_one_that_does_not() -> None:
    def made() -> tuple[Net, Any, Any]:
        net = Net()
        optimizer = optimizer_of("muon", net.named_parameters(), 0.01, 0.1)
        return net, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    net, optimizer, schedule = made()
    steps(net, optimizer, 5)
    schedule.step()
    weights, state, rate = deepcopy(net.state_dict()), deepcopy(optimizer.state_dict()), schedule.state_dict()
    steps(net, optimizer, 5)
    other, resumed, again = made()
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    again.load_state_dict(rate)
    assert [group["lr"] for group in resumed.param_groups] == [0.5 * MUON_RATE * 0.01, 0.5 * 0.01]
    steps(other, resumed, 5)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
