"""The Gaussians while they are trained: how their number changes."""

from __future__ import annotations

import pytest
import torch

from e2e3d_stages.train.model import TrainableSplats, z_order


def one_gaussian(opacity: float = 0.5, steps: int = 30_000) -> TrainableSplats:
    """At the origin, longest along x."""
    tensors = {
        "means": torch.zeros(1, 3),
        "scales": torch.tensor([[0.0, -1.0, -2.0]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "opacities": torch.tensor([opacity]).logit(),
        "sh": torch.zeros(1, 1, 3),
    }
    return TrainableSplats(tensors, extent=1.0, steps=steps, device=torch.device("cpu"))


@pytest.mark.parametrize(("steps", "fewer"), [(100_000, 1), (30_000, 1), (7_500, 4), (2_500, 12), (30, 12)])
def test_the_fewer_the_steps_the_farther_a_gaussian_moves_grows_and_turns_in_one(steps: int, fewer: int) -> None:
    model = one_gaussian(steps=steps)
    sum(tensor.sum() for tensor in model.tensors.values()).backward()
    before = {name: tensor.detach().clone() for name, tensor in model.tensors.items()}
    model.step(0.0)
    moved = {name: (model.tensors[name] - before[name]).flatten()[0].item() for name in ("means", "scales", "quats")}
    root = fewer**0.5
    assert moved == pytest.approx({"means": -1.6e-4 * root, "scales": -5e-3 * fewer, "quats": -1e-3 * root}, rel=1e-3)
    assert (model.tensors["opacities"] - before["opacities"]).item() == pytest.approx(-5e-2, rel=1e-3)


@pytest.mark.parametrize("opacity", [0.1, 0.5, 0.9])
def test_the_halves_of_a_gaussian_are_together_as_opaque_as_it_was(opacity: float) -> None:
    model = one_gaussian(opacity)
    model.pull += 1
    model.times_seen += 1
    model.refine(2)
    left, right = model.splats().opacities.tolist()
    assert 1 - (1 - left) * (1 - right) == pytest.approx(opacity, abs=1e-3)
    # Side by side along the longest axis.
    assert torch.equal(model.splats().means.sum(0), torch.zeros(3))
    assert (model.splats().means[:, 0].abs() > 0).all()
    assert not model.splats().means[:, 1:].any()


def test_neighbours_in_space_are_neighbours_in_memory_though_some_are_far_away() -> None:
    places = torch.rand(1_000, 3, generator=torch.Generator().manual_seed(0))
    places[:5] *= 1e5
    order = z_order(places)
    assert torch.equal(order.sort().values, torch.arange(1_000))
    near = places[order][(places[order] <= 1).all(1)]
    assert near.diff(dim=0).norm(dim=1).mean() < 0.25 * places[5:].diff(dim=0).norm(dim=1).mean()


def test_what_the_optimiser_knows_of_a_gaussian_stays_with_it_when_others_are_split() -> None:
    tensors = {
        "means": torch.tensor([[3.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]),
        "scales": torch.zeros(3, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]] * 3),
        "opacities": torch.zeros(3),
        "sh": torch.zeros(3, 1, 3),
    }
    model = TrainableSplats(tensors, extent=1.0, steps=30_000, device=torch.device("cpu"))
    (model.tensors["means"] * torch.tensor([[30.0], [10.0], [20.0]])).sum().backward()
    model.step(0.0)
    model.pull, model.times_seen = torch.tensor([0.0, 0.0, 1.0]), torch.ones(3)
    model.refine(4)
    momentum = model.optimizer.state[model.tensors["means"]]["exp_avg"][:, 0]
    known = {
        round(place): force.item()
        for place, force in zip(model.tensors["means"][:, 0].tolist(), momentum, strict=True)
        if force
    }
    assert known == pytest.approx({1: 1.0, 3: 3.0})


def test_a_training_in_which_nothing_is_visible_any_more_goes_on_to_say_so() -> None:
    model = one_gaussian()
    with torch.no_grad():
        model.tensors["opacities"].fill_(torch.nan)
    assert model.refine(2) == 1
    assert len(model) == 0


def test_the_base_colour_moves_at_its_own_rate_as_adam_moves_a_tensor_of_its_own() -> None:
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(50, 4, 3, generator=rng)
    tensors = {
        "means": torch.zeros(50, 3),
        "scales": torch.zeros(50, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]] * 50),
        "opacities": torch.zeros(50),
        "sh": start.clone(),
    }
    model = TrainableSplats(tensors, extent=1.0, steps=30_000, device=torch.device("cpu"))
    base, others = start[:, :1].clone().requires_grad_(), start[:, 1:].clone().requires_grad_()
    apart = torch.optim.Adam([{"params": [base], "lr": 2.5e-3}, {"params": [others], "lr": 2.5e-3 / 20}], eps=1e-15)
    for _ in range(20):
        pull = torch.randn(50, 4, 3, generator=rng)
        for each, colours in ((model.optimizer, model.tensors["sh"]), (apart, torch.cat([base, others], 1))):
            each.zero_grad()
            (colours * pull).sum().backward()
        model.step(0.0)
        apart.step()
    torch.testing.assert_close(model.tensors["sh"], torch.cat([base, others], 1), atol=1e-6, rtol=0)
