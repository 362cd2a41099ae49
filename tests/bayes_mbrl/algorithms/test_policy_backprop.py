"""v2.0: sensitivities in closed form, moments matched, gradients that explode, going on bit-equal, a task learned."""

import dataclasses

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.gradient_learner import ExplodingGradientError
from bayes_mbrl.algorithms.policy_backprop import PolicyBackpropLearner
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.environments.rewards import pendulum_reward
from bayes_mbrl.imagination import World, imagine_policy
from bayes_mbrl.planners.propagation import moment_matching, ts_infinity
from bayes_mbrl.policies import make_policy


def linear_world(factor: float, noise_std: float = 0.0) -> World:
    dynamics = KnownDynamics(lambda s, a: factor * s + a, noise_std=torch.full((1,), noise_std))
    return World(Nothing(), dynamics, lambda s, a, n: n[..., 0], None)


def learner(seed: int = 0, **settings: object) -> PolicyBackpropLearner:
    generator = torch.Generator().manual_seed(seed)
    bound = torch.ones(1)
    policy = make_policy("linear", 1, -bound, bound, generator=generator)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()  # no feedback: the sensitivity is the dynamics' own
    return PolicyBackpropLearner(policy, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_sensitivities_vanish_or_explode_as_the_dynamics_do(factor: float, generator: torch.Generator) -> None:
    """∂/∂a_t of Σ_{t'} γ^t' s_{t'+1} is Σ_{t' >= t} γ^t' factor^(t' − t)."""
    backprop, world = learner(horizon=6, discount=0.9), linear_world(factor)
    starts = torch.zeros(2, 5, 1)
    told = backprop.improve(world, starts, world.draw(backprop.horizon, starts, 1, generator=generator))
    expected = [sum(0.9**u * factor ** (u - t) for u in range(t, 6)) for t in range(6)]
    torch.testing.assert_close(told.action_gradient_norms, torch.tensor(expected))
    assert float(told.share_lived) == 1


def test_matched_moments_are_those_of_the_particles(generator: torch.Generator) -> None:
    world = linear_world(1.0, noise_std=0.5)
    policy = learner().policy
    starts = 3 * torch.randn(4, 500, 1, generator=generator) ** 2  # skewed: afterwards it is not
    noise = torch.randn(1, 4, 500, 1, generator=generator)
    chance = torch.zeros(1, 4, 500, 1)
    matching = torch.randn(1, 4, 500, 1, generator=generator)
    matched, plain = (
        imagine_policy(
            dataclasses.replace(world, propagation=propagation),
            policy,
            starts,
            {},
            model_noise=noise,
            policy_noise=chance,
            propagation_noise=matching,
        )
        .states[-1]
        .detach()
        for propagation in (moment_matching, ts_infinity)
    )
    assert float(matched.mean() - plain.mean()) == pytest.approx(0, abs=5 * float(plain.std()) / 2000**0.5)
    assert float(matched.std() / plain.std()) == pytest.approx(1, abs=0.1)

    def skewness(x: Tensor) -> float:
        return float(((x - x.mean()) / x.std()).pow(3).mean())

    assert skewness(plain) > 1
    assert abs(skewness(matched)) < 0.3


def test_an_exploding_gradient_is_skipped_and_the_third_stops(generator: torch.Generator) -> None:
    """States stay below all limits while their derivative does not: s' = s + a · 10^30 at a = 0, many times over."""
    dynamics = KnownDynamics(lambda s, a: 1e20 * s * a + a, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: n[..., 0], None)
    backprop = learner(horizon=4)
    starts = torch.full((1, 3, 1), 1e10)
    before = backprop.tensors()
    for _ in range(2):
        told = backprop.improve(world, starts, world.draw(backprop.horizon, starts, 1, generator=generator))
        assert not torch.isfinite(told.gradient_norm)
    assert all(torch.equal(v, before[k]) for k, v in backprop.tensors().items() if k.startswith("policy/"))
    with pytest.raises(ExplodingGradientError, match=r"3 steps in a row.*shorten the imagined horizon"):
        backprop.improve(world, starts, world.draw(backprop.horizon, starts, 1, generator=generator))


def test_the_value_at_the_end_is_followed(generator: torch.Generator) -> None:
    """With a horizon of one step and no reward, all there is to gain is behind it."""
    dynamics = KnownDynamics(lambda s, a: s + a, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: 0 * n[..., 0], None)
    backprop = learner(horizon=1, learning_rate=0.05)
    starts = torch.zeros(1, 8, 1)
    for _ in range(60):
        backprop.improve(
            world,
            starts,
            world.draw(backprop.horizon, starts, 1, generator=generator),
            value=lambda s: -((s[..., 0] - 0.6) ** 2),
        )
    assert float(backprop.policy.mode(torch.zeros(1)).detach()) == pytest.approx(0.6, abs=0.02)


def test_a_loaded_learner_goes_on_bit_equal() -> None:
    world, starts = linear_world(0.9, 0.1), torch.ones(2, 3, 1)
    one, other = learner(0), learner(0)
    one.improve(world, starts, world.draw(one.horizon, starts, 1, generator=torch.Generator().manual_seed(1)))
    other.load(one.tensors())
    for backprop in (one, other):
        backprop.improve(
            world, starts, world.draw(backprop.horizon, starts, 1, generator=torch.Generator().manual_seed(2))
        )
    for (name, a), b in zip(one.tensors().items(), other.tensors().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_it_swings_up_the_true_pendulum(generator: torch.Generator) -> None:
    """With the dynamics known the gradient alone is judged: upright, nearly at rest, within 60 steps."""
    world = World(Nothing(), KnownDynamics(pendulum_step, noise_std=torch.zeros(3)), pendulum_reward, None)
    bound = torch.full((1,), 2.0)
    policy = make_policy("deterministic", 3, -bound, bound, hidden=(64, 64), generator=generator)
    backprop = PolicyBackpropLearner(policy, horizon=40)

    def starts(n: int) -> Tensor:
        angle = torch.pi * (2 * torch.rand(1, n, generator=generator) - 1)
        return torch.stack([angle.cos(), angle.sin(), 2 * torch.rand(1, n, generator=generator) - 1], -1)

    for _ in range(300):
        now = starts(100)
        told = backprop.improve(world, now, world.draw(backprop.horizon, now, 1, generator=generator))
    states = starts(50)[0]
    with torch.no_grad():
        for _ in range(80):
            states = pendulum_step(states, policy.mode(states))
    assert float((states[:, 0] > 0.95).float().mean()) > 0.9
    assert bool(told.action_gradient_norms.isfinite().all())
