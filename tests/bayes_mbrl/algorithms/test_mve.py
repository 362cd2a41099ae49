"""Value expansion: targets by hand in a known world, H = 0 bit-equal to the plain actor-critic, ends and divergence."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_runs import configure, numbers, saved, start

from bayes_mbrl.algorithms.actor_critic import Regression, SoftActorCritic, one_step
from bayes_mbrl.algorithms.mve import MVE, ValueExpansion
from bayes_mbrl.algorithms.sac import SAC
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import World, gathered, spread_over_theta
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.replay import Batch

LOW, HIGH = torch.tensor([-1.0]), torch.tensor([1.0])


def learner(**settings: float) -> SoftActorCritic:
    generator = torch.Generator().manual_seed(0)
    return SoftActorCritic(1, LOW, HIGH, generator=generator, hidden=(16,), **settings)  # type: ignore[arg-type]


def world(limit: float = float("inf"), factor: float = 1.0) -> World:
    dynamics = KnownDynamics(lambda s, a: factor * (s + 0.5 * a), noise_std=torch.zeros(1))
    return World(
        Nothing(), dynamics, lambda s, a, n: 3 * s[..., 0] + a[..., 0], lambda s, a, n: n[..., 0] > limit, num_theta=1
    )


@pytest.fixture
def batch(generator: torch.Generator) -> Batch:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(normal(7, 1), torch.tanh(normal(7, 1)), normal(7), normal(7, 1), torch.arange(7) == 2)


def by_hand(
    sac: SoftActorCritic, batch: Batch, horizon: int, limit: float, seed: int
) -> dict[tuple[float, float], float]:
    """(s, a) → target for all rows, one at a time, with the same random numbers."""
    generator = torch.Generator().manual_seed(seed)
    num = len(batch.reward)
    torch.empty(horizon, 1, num, 1).normal_(generator=generator)  # the model's noise, of size 0
    chance = torch.empty(horizon, 1, num, 1).normal_(generator=generator)
    last = torch.empty(num, 1).normal_(generator=generator)
    alpha, gamma, targets = float(sac.temperature()), sac.discount, {}
    for i in range(num):
        steps, state, ended = [], batch.next_state[i], bool(batch.terminated[i])
        for t in range(horizon):
            if ended:
                break
            action, log_density = (x.detach() for x in sac.act(state, chance[t, 0, i]))
            reward, following = float(3 * state + action), state + 0.5 * action
            ended = float(following) > limit
            steps.append((float(state), float(action), reward, float(log_density)))
            state = following
        value = 0.0
        if not ended:
            action, log_density = (x.detach() for x in sac.act(state, last[i]))
            value = float(sac.slow_critics(state[None], action[None]).min() - alpha * log_density.detach())
        for s, a, reward, log_density in reversed(steps):
            targets[s, a] = reward + gamma * value
            value = targets[s, a] - alpha * log_density
        targets[float(batch.state[i]), float(batch.action[i])] = float(batch.reward[i]) + gamma * value
    return targets


@pytest.mark.parametrize(("horizon", "limit"), [(1, float("inf")), (3, float("inf")), (3, 0.6), (5, 0.2)])
def test_targets_are_those_worked_out_by_hand(batch: Batch, horizon: int, limit: float) -> None:
    sac = learner(initial_temperature=0.2, discount=0.9)
    problem = ValueExpansion(world(limit), horizon)(sac, batch, torch.Generator().manual_seed(4))
    expected = by_hand(sac, batch, horizon, limit, seed=4)
    assert len(problem.target) == len(expected)
    for state, action, target in zip(*problem, strict=True):
        (key,) = (k for k in expected if k == pytest.approx((float(state), float(action)), abs=1e-6))
        assert float(target) == pytest.approx(expected[key], rel=1e-4, abs=1e-4)
    assert not problem.target.requires_grad


def test_without_imagination_it_is_the_plain_actor_critic_bit_for_bit(batch: Batch) -> None:
    plain, expanded = learner(), learner()
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    for _ in range(5):
        plain.update(batch, generator=generators[0])
        expanded.update(batch, generator=generators[1], expand=ValueExpansion(world(), 0))
    for (name, a), b in zip(plain.tensors().items(), expanded.tensors().values(), strict=True):
        assert torch.equal(a, b), name
    targets = one_step(plain, batch, torch.Generator().manual_seed(1)).target
    assert torch.equal(targets, ValueExpansion(world(), 0)(plain, batch, torch.Generator().manual_seed(1)).target)


def test_rows_that_diverge_are_left_out_and_the_others_stay(batch: Batch) -> None:
    sac = learner()
    exploding = world(factor=1e20)
    problem = ValueExpansion(exploding, 4)(sac, batch, torch.Generator().manual_seed(0))
    assert problem.state.tolist() == [batch.state[2].tolist()]  # the terminated row needs no imagination
    assert problem.target.tolist() == [float(batch.reward[2])]
    sac.update(batch, generator=torch.Generator().manual_seed(0), expand=ValueExpansion(exploding, 4))
    assert all(bool(value.isfinite().all()) for value in sac.tensors().values())


class Shifts(Nothing):
    """θ_k is 10 k, whatever is drawn."""

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        return {"shift": 10.0 * torch.arange(n)}


class Shifted(KnownDynamics):
    """s' = s + θ."""

    def __init__(self) -> None:
        super().__init__(lambda s, a: s, noise_std=torch.zeros(1))

    def sample(self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, noise: Tensor, **_: Any) -> Tensor:
        return states + theta["shift"][:, None, None]


def test_rows_are_imagined_with_one_theta_each_and_with_all_of_them(batch: Batch) -> None:
    """The imagined states, which have targets of their own, tell the θ of each row."""
    there = World(Shifts(), Shifted(), lambda s, a, n: n[..., 0], None, num_theta=3)
    batch = batch._replace(terminated=torch.zeros(7).bool())
    problem = ValueExpansion(there, 2)(learner(), batch, torch.Generator().manual_seed(0))
    second, first = problem.state[:7], problem.state[7:14]
    torch.testing.assert_close(first, batch.next_state)
    shifts = (second - first).flatten()
    torch.testing.assert_close(shifts, torch.tensor([0.0, 0, 0, 10, 10, 10, 20]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_theta", [1, 2, 3, 7, 10])
def test_rows_are_dealt_out_and_gathered_in_order(num_theta: int) -> None:
    rows = torch.arange(14.0).view(7, 2)
    dealt = spread_over_theta(rows, num_theta)
    assert dealt.shape[0] == num_theta
    assert torch.equal(gathered(dealt[None], 7)[0], rows)


def test_an_expansion_is_any_function(batch: Batch) -> None:
    """What the critics are taught is the expansion's business alone."""
    sac = learner(learning_rate=1e-2)

    def constant(learner: SoftActorCritic, batch: Batch, generator: torch.Generator) -> Regression:
        return Regression(batch.state, batch.action, torch.full_like(batch.reward, 5.0))

    for _ in range(600):
        sac.update(batch, generator=torch.Generator().manual_seed(0), expand=constant)
    values = sac.critics(batch.state, batch.action).detach()
    torch.testing.assert_close(values, torch.full_like(values, 5.0), atol=0.2, rtol=0)


@pytest.mark.usefixtures("no_picture")
def test_a_run_without_a_horizon_is_one_of_soft_actor_critic_bit_for_bit(tmp_path: pathlib.Path) -> None:
    """The model is fitted beside it, and neither its random numbers nor anything else of it is seen by the critics."""
    settings = (
        "algorithm.hidden=[8]", "algorithm.batch_size=8", "algorithm.updates_per_step=2", "num_base_steps=1",
        "num_episodes=3", "num_evaluation_episodes=2",
    )  # fmt: skip
    env = "toy_environments:Drift-v0"
    start(tmp_path / "sac", env, "algorithm=sac", *settings)
    start(tmp_path / "plain", env, "algorithm=mve", "algorithm.horizon=0", "algorithm.refit_every=7", *settings)
    start(tmp_path / "mve", env, "algorithm=mve", "algorithm.horizon=2", "algorithm.refit_every=7", *settings)
    assert saved(tmp_path / "plain").posterior is not None
    sac, plain, mve = (numbers(tmp_path / name) for name in ("sac", "plain", "mve"))
    for part in ("learned", "transitions", "evaluation", "evaluation episodes"):
        assert plain[part] == sac[part], part
        assert plain[part] != mve[part], part
    assert plain["checkpoint"]["learned"] == sac["checkpoint"]["learned"]


def test_before_there_is_a_world_nothing_is_expanded(batch: Batch) -> None:
    assert MVE(horizon=3).expansion(None) is None
    assert SAC().expansion(world()) is None
    expansion = MVE(horizon=2).expansion(world())
    assert expansion is not None
    sac = learner()
    assert len(expansion(sac, batch, torch.Generator().manual_seed(0)).target) == 3 * 7 - 2  # one of 7 is terminal


@pytest.mark.parametrize(
    ("setting", "message"), [("horizon=-1", "greater than or equal to 0"), ("horizon=1.5", "integer")]
)
def test_a_horizon_that_cannot_be_is_refused(setting: str, message: Any) -> None:
    with pytest.raises(UserError, match=f"algorithm.horizon .*{message}"):
        configure("toy_environments:Drift-v0", "algorithm=mve", f"algorithm.{setting}")
