"""v2.0: sensitivities in closed form, moments matched, gradients that explode, going on bit-equal, a task learned."""

import dataclasses
import json
import math
import pathlib
from typing import Any, get_args

import pytest
import torch
from linear_quadratic import linear_quadratic
from torch import Tensor
from toy_runs import Recorder, configure, numbers, resume, saved, start

from bayes_mbrl.algorithms.gradient_learner import ExplodingGradientError
from bayes_mbrl.algorithms.policy_backprop import Improvement, PolicyBackpropLearner
from bayes_mbrl.algorithms.terminal_value import StateValue
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments import adapter
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.environments.rewards import never, pendulum_reward
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import World, imagine_policy, returns_of
from bayes_mbrl.planners.propagation import Propagation, distribution_sampling, moment_matching, ts_1, ts_infinity
from bayes_mbrl.policies import Policy, PolicyKind, StandardisedPolicy, make_policy


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
    return PolicyBackpropLearner(StandardisedPolicy(policy, 1), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_sensitivities_vanish_or_explode_as_the_dynamics_do(factor: float, generator: torch.Generator) -> None:
    """∂/∂a_t of Σ_{t'} γ^t' s_{t'+1} is Σ_{t' >= t} γ^t' factor^(t' − t)."""
    backprop, world = learner(horizon=6, discount=0.9), linear_world(factor)
    starts = torch.zeros(2, 5, 1)
    told = backprop.improve(world, starts, world.draw(backprop.horizon, starts, 1, generator=generator))
    expected = [sum(0.9**u * factor ** (u - t) for u in range(t, 6)) for t in range(6)]
    torch.testing.assert_close(told.action_gradient_norms, torch.tensor(expected))
    assert float(told.share_sound) == 1


@pytest.mark.parametrize(("decay", "factor"), [(0.7, 1.5), (0.5, 0.5)])
def test_only_a_share_of_the_derivative_goes_on_to_the_step_before(
    decay: float, factor: float, generator: torch.Generator
) -> None:
    """As if γ stayed and the dynamics' factor were `decay` times as large; the return is that of the true factor."""
    world, starts = linear_world(factor), torch.ones(2, 5, 1)
    told, plain = (
        one.improve(world, starts, world.draw(6, starts, 1, generator=generator))
        for one in (learner(horizon=6, discount=0.9, gradient_decay=decay), learner(horizon=6, discount=0.9))
    )
    expected = [sum(0.9**u * (decay * factor) ** (u - t) for u in range(t, 6)) for t in range(6)]
    torch.testing.assert_close(told.action_gradient_norms, torch.tensor(expected))
    torch.testing.assert_close(told.imagined_return, plain.imagined_return)


@pytest.mark.parametrize(("unit", "expected"), [(None, 1 + 3), (2.0, 1 + 3 / 2), (0.1, 1 + 9)])
def test_the_derivative_by_a_state_is_bounded_in_units_of_the_states(
    unit: float | None, expected: float, generator: torch.Generator
) -> None:
    """s' = 10 s + a, R = s_1 + 0.9 s_2: of ∂R / ∂a_0 = 1 + 9 the second part comes by the state, whatever K · B is."""
    backprop, world = learner(horizon=2, discount=0.9, max_state_gradient=3.0), linear_world(10.0)
    for shape in [(1, 1, 1), (3, 4, 1)]:
        starts = torch.zeros(shape)
        noise = world.draw(2, starts, 1, generator=generator)
        told = backprop.improve(world, starts, noise, unit=None if unit is None else torch.tensor([unit]))
        torch.testing.assert_close(told.action_gradient_norms, torch.tensor([expected, 0.9]))


def test_a_trajectory_of_infinite_derivative_leaves_that_of_the_others(generator: torch.Generator) -> None:
    """The slope of the root at 0 is infinite: of that trajectory nothing goes through its state."""
    dynamics = KnownDynamics(lambda s, a: s.abs().sqrt() + a, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: n[..., 0], None)
    starts = torch.tensor([[[0.0], [1.0]]])  # the first gets to 0, whose root's slope is infinite
    noise = world.draw(2, starts, 1, generator=generator)
    assert not torch.isfinite(learner(horizon=2, discount=1.0).improve(world, starts, noise).gradient_norm)
    backprop = learner(horizon=2, discount=1.0, max_state_gradient=10.0)
    told = backprop.improve(world, starts, noise)
    assert torch.isfinite(told.gradient_norm)
    # ∂R / ∂a_0 is 1 for the one, 1 + ½ for the other, by whose side it is averaged in squares.
    torch.testing.assert_close(told.action_gradient_norms, torch.tensor([((1 + 1.5**2) / 2) ** 0.5, 1.0]))


def test_the_unit_of_the_bound_is_what_a_state_changes_by_in_a_step(generator: torch.Generator) -> None:
    """However far the states themselves are spread; a bound of 1e-6 leaves what goes by the step's own reward alone."""
    data = rows(torch.tensor([[-200.0], [20.0], [-20.0], [200.0]]), torch.ones(4), [0] * 4)
    data = dataclasses.replace(data, next_state=data.state + torch.tensor([[-1.0], [3.0], [-1.0], [3.0]]))
    told = []
    for bound in (1e-6, 6.0, 1e6):  # the std is 2
        backprop = learner(horizon=2, discount=1.0, max_state_gradient=bound, num_gradient_steps=1)
        backprop.after_fit(linear_world(6.0), data, generator=generator, advance=lambda: None)
        told.append(backprop.report()["action_gradient_norms"][0])
    assert told == pytest.approx([1, 1 + 3, 1 + 6], rel=1e-4)


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


def diverging(factor: float) -> World:
    """s' = factor · s + a; from s < −2 one step leads to s > 1, and from there beyond all reason. r < 0."""

    def step(s: Tensor, a: Tensor) -> Tensor:
        return torch.where(s > 1, s + 1e35, torch.where(s < -2, 5 + a, factor * s + a))

    dynamics = KnownDynamics(step, noise_std=torch.zeros(1))
    return World(Nothing(), dynamics, lambda s, a, n: -1 - (a[..., 0] - 0.5) ** 2, None, num_theta=2)


@pytest.mark.parametrize("terminal_value", [False, True])
def test_a_trajectory_that_diverged_is_no_gain_and_teaches_nothing(
    terminal_value: bool, generator: torch.Generator
) -> None:
    one, other = (valued(0, horizon=3, discount=0.9) if terminal_value else learner(horizon=3) for _ in range(2))
    world, sound = diverging(0.5), torch.tensor([[[0.5], [-0.3]]])
    noise = world.draw(3, sound, 1, generator=generator)
    lost = torch.tensor([[[0.5], [-3.0], [-0.3], [-4.0]]])  # lost in the second step
    of_lost = noise._replace(
        model_noise=noise.model_noise.repeat_interleave(2, 2), policy_noise=noise.policy_noise.repeat_interleave(2, 2)
    )
    expected, told = one.improve(world, sound, noise), other.improve(world, lost, of_lost)
    torch.testing.assert_close(told.imagined_return, expected.imagined_return)
    assert (float(expected.share_sound), float(told.share_sound)) == (1.0, 0.5)
    torch.testing.assert_close(told.value_loss, expected.value_loss)
    torch.testing.assert_close(told.gradient_norm, 0.5 * expected.gradient_norm)


def test_where_all_diverge_nothing_is_learned_and_the_third_time_is_refused(generator: torch.Generator) -> None:
    backprop, data = learner(horizon=2, num_gradient_steps=2), rows(torch.full((5, 1), 2.0), torch.ones(5), [0] * 5)
    before = backprop.policy.mode(torch.ones(1)).detach()
    backprop.after_fit(diverging(1.0), data, generator=generator, advance=lambda: None)
    assert torch.equal(backprop.policy.mode(torch.ones(1)).detach(), before)
    assert backprop.report()["share_sound"] == 0
    told = backprop.warnings()
    assert told[:2] == ["every imagined trajectory diverged: this step of learning is skipped"] * 2
    assert told[2].startswith("100% of the imagined trajectories diverged")
    with pytest.raises(UserError, match=r"every imagined trajectory diverged in 3 steps in a row.*algorithm\.horizon"):
        backprop.after_fit(diverging(1.0), data, generator=generator, advance=lambda: None)


def test_the_gradient_goes_through_the_slow_copy_of_the_value_which_gathers_none(generator: torch.Generator) -> None:
    world = dataclasses.replace(linear_world(1.0), reward=lambda s, a, n: torch.ones(n.shape[:-1]), num_theta=2)
    starts = torch.randn(2, 3, 1, generator=generator)
    norms = []
    for name in ("value", "slow value"):
        backprop = valued(0, horizon=2, discount=0.9)
        for parameter in backprop.modules[name].parameters():
            parameter.data.zero_()
        norms.append(
            float(backprop.improve(world, starts, world.draw(2, starts, 1, generator=generator)).gradient_norm)
        )
        assert all(parameter.grad is None for parameter in backprop.modules["slow value"].parameters())
    assert norms[0] > 1e-3
    assert norms[1] == 0


def test_the_price_of_saturation_goes_through_no_state(generator: torch.Generator) -> None:
    """Only actions that are priced: else the policy would steer to states where it has nothing to say."""
    world, starts = linear_world(0.9), torch.ones(2, 3, 1)
    noise, told = world.draw(3, starts, 1, generator=generator), []
    for price in (0.0, 10.0):
        backprop = valued(0, horizon=3, discount=0.9, saturation_price=price)
        told.append(backprop.improve(world, starts, noise))
    torch.testing.assert_close(told[0].action_gradient_norms, told[1].action_gradient_norms)
    assert float(told[1].gradient_norm) != pytest.approx(float(told[0].gradient_norm), rel=1e-3)


def rows(state: Tensor, reward: Tensor, episode: list[int]) -> Transitions:
    nothing = torch.zeros(len(state), dtype=torch.bool)
    return Transitions(state, torch.zeros(len(state), 1), reward, state, nothing, torch.tensor(episode))


def valued(seed: int, **settings: object) -> PolicyBackpropLearner:
    generator = torch.Generator().manual_seed(seed)
    bound = torch.ones(1)
    policy = StandardisedPolicy(make_policy("deterministic", 1, -bound, bound, hidden=(8,), generator=generator), 1)
    value = StateValue(1, hidden=(16,), generator=generator)
    return PolicyBackpropLearner(policy, value=value, **settings)  # type: ignore[arg-type]


def test_a_policy_that_looks_one_step_ahead_sees_further_by_the_value(generator: torch.Generator) -> None:
    """s' = s + a / 2, r = −s'² − 2 a², γ = 0.9: V = −p s² with w = 1 + γ p, p = 2 w / (w / 4 + 2), and the best action
    is −s (w / 2) / (w / 4 + 2), 2.4 times as far as without a future, w = 1."""
    weight = 1.0
    for _ in range(50):
        weight = 1 + 0.9 * 2 * weight / (weight / 4 + 2)
    gain, short_sighted = (w / 2 / (w / 4 + 2) for w in (weight, 1.0))
    dynamics = KnownDynamics(lambda s, a: s + 0.5 * a, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: -(n[..., 0] ** 2) - 2 * a[..., 0] ** 2, None, num_theta=1)
    states = 2.4 * torch.rand(64, 1, generator=generator) - 1.2
    data = rows(states, -torch.ones(64), [0] * 64)
    settings = {"horizon": 1, "discount": 0.9, "learning_rate": 0.01, "num_starts": 64, "value_rate": 0.05}
    learner = valued(1, **settings, num_gradient_steps=500)
    learner.after_fit(world, data, generator=generator, advance=lambda: None)
    at = torch.tensor([[-1.0], [0.7]])
    gains = (-learner.policy.mode(at) / at).detach().flatten().tolist()
    assert gains == pytest.approx([gain, gain], abs=0.3 * (gain - short_sighted))
    assert learner.report()["value_loss"] < 0.01
    other = valued(2, horizon=1, discount=0.9)
    other.load(learner.tensors())
    assert all(torch.equal(value, learner.tensors()[name]) for name, value in other.tensors().items())
    with pytest.raises(ValueError, match="need discount < 1 with a value"):
        valued(0, discount=1.0)


@pytest.mark.parametrize(("starts", "expected"), [("visited", [0, 1, 2, 3, 4, 5]), ("episode-starts", [0, 2, 5])])
def test_trajectories_start_where_they_should(starts: str, expected: list[int], generator: torch.Generator) -> None:
    seen: list[Tensor] = []

    def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        seen.append(state.detach())
        return next_state[..., 0]

    world = dataclasses.replace(linear_world(1.0), reward=reward, num_theta=2)
    states = torch.arange(6.0)[:, None]
    data = rows(states, torch.ones(6), [0, 0, 1, 1, 1, 3])
    backprop = learner(starts=starts, horizon=1, num_gradient_steps=20)
    backprop.after_fit(world, data, generator=generator, advance=lambda: None)
    assert sorted(set(torch.cat([s.flatten() for s in seen]).tolist())) == expected
    assert int(backprop.policy.num_seen) == 6
    torch.testing.assert_close(backprop.policy.mean, torch.tensor([2.5]))
    backprop.after_fit(world, data[:2], generator=generator, advance=lambda: None)
    assert int(backprop.policy.num_seen) == 6, "units change only once"


def test_the_policy_sees_the_features_of_the_environment() -> None:
    with Environment("CartPoleSwingUp-v0") as environment:
        config = configure("CartPoleSwingUp-v0", "algorithm=v2.0", "algorithm.terminal_value=true")
        made = Builder(config, environment).learner()
    assert isinstance(made, PolicyBackpropLearner)
    turn = torch.tensor([0.0, 0.0, 2 * torch.pi, 0.0])
    state = torch.tensor([0.3, -1.0, 1.2, 4.0])
    torch.testing.assert_close(made.policy.inputs(state), torch.tensor([0.3, -1.0, 4.0, 0.93204, 0.36236]))
    torch.testing.assert_close(made.policy.mode(state), made.policy.mode(state + turn))
    assert made.tensors()["policy/mean"].shape == (5,)
    assert made.tensors()["value/network.0.weight"].shape == (64, 5)


@pytest.mark.parametrize(("num_starts", "num_first"), [(1, 1), (4, 2), (5, 3)])
def test_half_of_the_trajectories_start_where_episodes_do(
    num_starts: int, num_first: int, generator: torch.Generator
) -> None:
    seen: list[Tensor] = []

    def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        seen.append(state.detach())
        return next_state[..., 0]

    world = dataclasses.replace(linear_world(1.0), reward=reward, num_theta=3)
    states = torch.cat([torch.zeros(1, 1), torch.ones(10**6, 1)])  # the one first state is hardly ever drawn
    data = rows(states, torch.ones(len(states)), [0] * len(states))
    backprop = learner(starts="both", horizon=1, num_starts=num_starts, num_gradient_steps=2)
    backprop.after_fit(world, data, generator=generator, advance=lambda: None)
    assert all(int((one == 0).sum()) == 3 * num_first and one.shape == (3, num_starts, 1) for one in seen)


def test_the_learning_rate_falls_in_the_steps_after_each_fit(generator: torch.Generator) -> None:
    """With a constant gradient each step of Adam is as long as its rate: 1, ¾, ½ and ¼ of 0.008."""
    data = rows(torch.zeros(4, 1), torch.ones(4), [0] * 4)
    world = dataclasses.replace(linear_world(0.0), reward=lambda s, a, n: a[..., 0], num_theta=1)
    moved = []
    for final in (None, 1e-12):
        backprop = learner(horizon=1, learning_rate=0.008, final_learning_rate=final, num_gradient_steps=4)
        for _ in range(2):
            backprop.after_fit(world, data, generator=generator, advance=lambda: None)
            moved.append(float(torch.atanh(backprop.policy.mode(torch.zeros(1))).detach()))
    assert moved == pytest.approx([4 * 0.008, 8 * 0.008, 2.5 * 0.008, 5 * 0.008], rel=1e-2)


def test_a_reward_without_slope_is_refused_unless_a_value_has_one(generator: torch.Generator) -> None:
    world = dataclasses.replace(linear_world(1.0), reward=lambda s, a, n: torch.ones(n.shape[:-1]), num_theta=2)
    data = rows(torch.randn(20, 1, generator=generator), torch.ones(20), [0] * 20)
    with pytest.raises(UserError, match=r"the reward has no slope.*algorithm.terminal_value=true"):
        learner(horizon=2).after_fit(world, data, generator=generator, advance=lambda: None)
    backprop = valued(0, horizon=2, num_gradient_steps=2)
    backprop.after_fit(world, data, generator=generator, advance=lambda: None)
    assert backprop.report()["gradient_norm"] > 0


def test_a_policy_finds_back_from_where_tanh_is_flat(generator: torch.Generator) -> None:
    """Saturated at 1, where −(a − 0.2)² has no slope in u; a price on u brings the slope back."""
    dynamics = KnownDynamics(lambda s, a: s, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: -((a[..., 0] - 0.2) ** 2), None, num_theta=2)
    data = rows(torch.randn(20, 1, generator=generator), torch.ones(20), [0] * 20)
    actions = []
    for price in (0.0, 1e-4):
        backprop = learner(horizon=2, learning_rate=0.1, num_gradient_steps=400, saturation_price=price)
        with torch.no_grad():
            list(backprop.policy.parameters())[-1].fill_(20.0)  # tanh' is 0 in float32
        backprop.after_fit(world, data, generator=generator, advance=lambda: None)
        actions.append(float(backprop.policy.mode(torch.zeros(1)).detach()))
    assert actions == [1.0, pytest.approx(0.2, abs=0.01)]


@pytest.mark.parametrize("fresh", [True, False])
def test_randomness_is_drawn_anew_or_held(fresh: bool, generator: torch.Generator) -> None:
    seen: list[Tensor] = []

    def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        seen.append((next_state - state - action).detach())
        return next_state[..., 0]

    world = dataclasses.replace(linear_world(1.0, noise_std=0.5), reward=reward)
    backprop = learner(horizon=1, num_gradient_steps=3, fresh_randomness=fresh)
    data = rows(torch.arange(6.0)[:, None], torch.ones(6), [0] * 6)
    backprop.after_fit(world, data, generator=generator, advance=lambda: None)
    assert all(torch.allclose(one, seen[0], atol=1e-5) for one in seen) != fresh


@pytest.mark.parametrize("system", ["double integrator", "coupled oscillators"])
def test_the_gradient_of_a_linear_policy_is_that_of_the_riccati_recursion(system: str) -> None:
    """J(K) = −Σ_t E[s'ᵀQs' + aᵀRa], a = K s: ∂J/∂K = −2 Σ_t ((R + BᵀP_tB) K + BᵀP_tA) Σ_t with
    P_{t−1} = Q + KᵀRK + (A + BK)ᵀP_t(A + BK), P_H = Q, and second moments Σ_{t+1} = (A + BK) Σ_t (A + BK)ᵀ.

    Source: Fazel et al., Global Convergence of Policy Gradient Methods for the LQR (2018), lemma 1, for a horizon H.
    """
    a, b, q, r, start = linear_quadratic(system)
    (num_states, num_actions), horizon = b.shape, 7
    generator = torch.Generator().manual_seed(3)
    gain = -0.2 * torch.rand(num_actions, num_states, generator=generator, dtype=torch.float64)
    starts = start + 0.3 * torch.randn(1, 5, num_states, generator=generator, dtype=torch.float64)

    def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        cost = torch.einsum("...i,ij,...j", next_state, q, next_state)
        return -cost - torch.einsum("...i,ij,...j", action, r, action)

    class LinearGain(Policy):
        def __init__(self) -> None:
            super().__init__(-torch.ones(num_actions), torch.ones(num_actions))
            self.gain = torch.nn.Parameter(gain.clone())

        def sample(self, states: Tensor, noise: Tensor) -> Tensor:
            return states @ self.gain.T

    policy = LinearGain()
    dynamics = KnownDynamics(lambda s, u: s @ a.T + u @ b.T, noise_std=torch.zeros(num_states, dtype=torch.float64))
    world = World(Nothing(), dynamics, reward, None)
    randomness = world.draw(horizon, starts, num_actions, generator=generator)
    imagined = imagine_policy(world, policy, starts, **randomness._asdict())
    returns_of(imagined, discount=1.0).mean().backward()  # type: ignore[no-untyped-call]

    closed = a + b @ gain
    moments = [torch.einsum("kbi,kbj->ij", starts, starts) / starts.shape[1]]
    for _ in range(horizon - 1):
        moments.append(closed @ moments[-1] @ closed.T)
    value, expected = q, torch.zeros_like(gain)
    for moment in reversed(moments):
        expected -= 2 * ((r + b.T @ value @ b) @ gain + b.T @ value @ a) @ moment
        value = q + gain.T @ r @ gain + closed.T @ value @ closed
    torch.testing.assert_close(policy.gain.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("propagation", [ts_infinity, ts_1, distribution_sampling, moment_matching])
@pytest.mark.parametrize("kind", get_args(PolicyKind))
def test_the_step_follows_the_gradient_that_finite_differences_give(
    kind: PolicyKind, propagation: Propagation, network_problem: Any, generator: torch.Generator
) -> None:
    """In float64, through a network with noise, a terminal value and features, under every propagation."""
    dynamics, posterior = network_problem(activation="tanh")
    bound = torch.tensor([1.0, 2.0], dtype=torch.float64)
    inner = make_policy(kind, 6, -bound, bound, hidden=(5,), generator=generator)
    policy = StandardisedPolicy(inner, 6, lambda s: torch.cat([s.sin(), s], -1)).double()
    value = StateValue(6, hidden=(4,), generator=generator).double()
    backprop = PolicyBackpropLearner(policy, horizon=4, discount=0.9, learning_rate=1e-300, value=value)
    starts = torch.randn(3, 4, 3, dtype=torch.float64, generator=generator) * torch.tensor([1.0, 0.1, 50.0])
    policy.standardise(starts.flatten(0, 1))
    world = World(posterior, dynamics, lambda s, a, n: n[..., 0].sin() - a.square().sum(-1), None, 3, propagation)
    randomness = world.draw(4, starts, 2, generator=generator)

    def improve() -> Improvement:
        return backprop.improve(world, starts, randomness)

    told = improve()
    gradients = [parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None]
    total = torch.cat([gradient.flatten() for gradient in gradients]).norm() * max(1.0, float(told.gradient_norm) / 10)
    torch.testing.assert_close(told.gradient_norm, total)
    scale = max(1.0, float(told.gradient_norm) / 10)  # it was clipped to 10
    for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
        flat = parameter.detach().view(-1)
        for index in {0, len(flat) // 2, len(flat) - 1}:
            ends = []
            for sign in (1, -1):
                flat[index] += sign * 1e-6
                ends.append(-float(improve().imagined_return))
                flat[index] -= sign * 1e-6
            slope = float(gradient.view(-1)[index]) * scale
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)


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
    backprop = PolicyBackpropLearner(StandardisedPolicy(policy, 3), horizon=40)

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


def steep(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """√ of a distance of 0: its value is 0, its derivative 0 · ∞."""
    return (0 * next_state[..., 0]).square().sqrt()


def mended(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return -next_state[..., 0].square()


def test_a_run_whose_gradients_explode_keeps_its_data_and_goes_on_when_mended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EnvironmentSpec("toy_environments:Drift-v0", reward=steep, termination=never)
    monkeypatch.setattr(adapter, "find_spec", lambda _: spec)
    settings = ("algorithm=v2.0", "algorithm.hidden=[4]", "algorithm.num_gradient_steps=4", "algorithm.horizon=3")
    with pytest.raises(
        UserError, match=r"the gradient of the policy has norm nan in 3 steps in a row.*shorten.*the data are kept"
    ):
        start(tmp_path / "run", "toy_environments:Drift-v0", *settings)
    kept = saved(tmp_path / "run")
    assert kept.transitions is not None
    spec = dataclasses.replace(spec, reward=mended)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("horizon: 3", "horizon: 2"))
    recorder = Recorder()
    state = resume(tmp_path / "run", observer=recorder)
    assert state.transitions is not None
    assert len(state.transitions) > len(kept.transitions)
    assert torch.equal(state.transitions.state[: len(kept.transitions)], kept.transitions.state)
    assert not recorder.warnings or not any("gradient" in text for text in recorder.warnings)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows[-1]["action_gradient_norms"]) == 2
    assert all(math.isfinite(norm) for norm in rows[-1]["action_gradient_norms"])
    assert numbers(tmp_path / "run")["evaluation"]["returns"]
