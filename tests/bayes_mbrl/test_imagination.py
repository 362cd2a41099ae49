"""Imagined trajectories: by hand, against the real environment, gradients against differences and a closed form."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.imagination import World, branch, imagine_policy, returns_of
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.propagation import ts_1, ts_infinity
from bayes_mbrl.policies import Policy, make_policy


def known_world(name: str, noise_std: float = 0.0, state_dim: int = 3) -> World:
    spec = ENVIRONMENTS[name]
    assert spec.reward is not None
    dynamics = KnownDynamics(KNOWN_STEPS[name], noise_std=torch.full((state_dim,), noise_std))
    return World(Nothing(), dynamics, spec.reward, spec.termination)


@pytest.mark.parametrize(("name", "state_dim"), [("Pendulum-v1", 3), ("ContinuousCartPole-v0", 4)])
def test_imagined_in_the_true_dynamics_it_is_what_really_happens(
    name: str, state_dim: int, generator: torch.Generator
) -> None:
    world = known_world(name, state_dim=state_dim)
    with Environment(name) as environment:
        policy = make_policy(
            "tanh-gaussian", state_dim, environment.low, environment.high, hidden=(8,), generator=generator
        )
        start = environment.reset(seed=3)
        chance = torch.randn(200, 1, 1, environment.action_dim, generator=generator)
        with torch.no_grad():
            imagined = imagine_policy(
                world, policy, start[None, None], {}, model_noise=torch.zeros(200, 1, 1, state_dim), policy_noise=chance
            )
        state, rewards, ended = start, [], False
        while not ended and len(rewards) < 50:  # beyond, rounding has grown too much
            step = environment.step(imagined.actions[len(rewards), 0, 0])
            rewards.append(step.reward)
            state, ended = step.next_state, step.terminated
    num = len(rewards)
    torch.testing.assert_close(imagined.rewards[:num, 0, 0], torch.tensor(rewards), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(imagined.states[num, 0, 0], state, rtol=1e-3, atol=1e-3)
    assert bool(imagined.lived[:num].all())
    assert imagined.terminated[:num, 0, 0].tolist() == [False] * (num - 1) + [ended]
    if ended:
        assert not imagined.lived[num:].any()
        assert not imagined.rewards[num:].any()


class LinearPolicy(Policy):
    """a = s · gain, without bounds: for closed forms."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__(-torch.ones(1), torch.ones(1))
        self.gain = torch.nn.Parameter(gain)

    def unsquashed(self, states: Tensor) -> tuple[Tensor, None]:
        return states @ self.gain, None

    def _squashed(self, unsquashed: Tensor) -> Tensor:
        return unsquashed


def test_the_gradient_is_the_closed_form_of_a_linear_quadratic_problem(generator: torch.Generator) -> None:
    """s' = φ s + b a + σ ε, r = −s² − c a², a = k s:
    E[Σ r] = −(1 + c k²) Σ_t E[s_t²], E[s²]' = (φ + b k)² E[s²] + σ²."""
    phi, b, c, sigma, horizon = 0.9, 0.5, 0.3, 0.4, 6
    gain = torch.tensor([[-0.7]], dtype=torch.float64, requires_grad=True)
    second_moment, exact = torch.full((), 1.5**2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(horizon):
        exact = exact - (1 + c * gain.squeeze() ** 2) * second_moment
        second_moment = (phi + b * gain.squeeze()) ** 2 * second_moment + sigma**2
    (expected,) = torch.autograd.grad(exact, gain)

    dynamics = KnownDynamics(lambda s, a: phi * s + b * a, noise_std=torch.full((1,), sigma, dtype=torch.float64))
    world = World(Nothing(), dynamics, lambda s, a, n: -(s[..., 0] ** 2) - c * a[..., 0] ** 2, None)
    policy = LinearPolicy(gain.detach().clone())
    starts = torch.full((1, 500, 1), 1.5, dtype=torch.float64)
    gradients = []
    for _ in range(80):
        noise = world.noise(horizon, 1, 500, like=starts, generator=generator)
        imagined = imagine_policy(world, policy, starts, {}, model_noise=noise, policy_noise=torch.zeros_like(noise))
        (gradient,) = torch.autograd.grad(returns_of(imagined, discount=1.0).mean(), policy.gain)
        gradients.append(float(gradient))
    measured = torch.tensor(gradients)
    assert abs(float(measured.mean() - expected)) < 5 * float(measured.std()) / 80**0.5
    assert float(measured.std()) / 80**0.5 < 0.01 * abs(float(expected))


def network_world(generator: torch.Generator) -> World:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    nothing = torch.zeros(40)
    transitions = Transitions(
        normal(40, 3), normal(40, 2), nothing.double(), normal(40, 3), nothing.bool(), nothing.long()
    )
    dynamics = NetworkDynamics.from_data(transitions, hidden=(8,), activation="tanh")
    posterior = DrawsPosterior(dynamics.model.initial(4, generator=generator))
    return World(posterior, dynamics, lambda s, a, n: n.sin().sum(-1) - a.square().sum(-1), None)


def _rollout(world: World, generator: torch.Generator) -> dict[str, Any]:
    starts = torch.randn(4, 5, 3, dtype=torch.float64, generator=generator)
    theta = world.posterior.sample(4, generator=generator)
    noise = world.noise(7, 4, 5, like=starts, generator=generator)
    chance = torch.randn(7, 4, 5, 2, dtype=torch.float64, generator=generator)
    return {"starts": starts, "theta": theta, "model_noise": noise, "policy_noise": chance}


@pytest.mark.parametrize("kind", ["tanh-gaussian", "deterministic", "rbf"])
def test_the_gradient_agrees_with_finite_differences(kind: Any, generator: torch.Generator) -> None:
    world = network_world(generator)
    bound = torch.tensor([1.0, 2.0], dtype=torch.float64)
    policy = make_policy(kind, 3, -bound, bound, hidden=(6,), generator=generator).double()
    arguments = _rollout(world, generator)

    def mean_return() -> Tensor:
        return returns_of(imagine_policy(world, policy, **arguments), discount=0.95, value=lambda s: s[..., 0]).mean()

    mean_return().backward()  # type: ignore[no-untyped-call]
    for parameter in policy.parameters():
        assert parameter.grad is not None
        flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for index in range(0, len(flat), max(1, len(flat) // 4)):
            ends = []
            for sign in (1, -1):
                flat[index] += sign * 1e-5
                ends.append(float(mean_return().detach()))
                flat[index] -= sign * 1e-5
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient[index]), rel=1e-4, abs=1e-7)


def test_a_trajectory_stays_with_its_theta(generator: torch.Generator) -> None:
    world = network_world(generator)
    bound = torch.ones(2, dtype=torch.float64)
    policy = make_policy("deterministic", 3, -bound, bound, hidden=(6,), generator=generator).double()
    arguments = _rollout(world, generator)
    together = imagine_policy(world, policy, **arguments)
    for k in range(4):
        alone = imagine_policy(
            world,
            policy,
            arguments["starts"][k : k + 1],
            {name: value[k : k + 1] for name, value in arguments["theta"].items()},
            model_noise=arguments["model_noise"][:, k : k + 1],
            policy_noise=arguments["policy_noise"][:, k : k + 1],
        )
        torch.testing.assert_close(alone.states[:, 0], together.states[:, k])


def test_what_diverges_is_not_lived_and_leaves_the_gradient_finite(generator: torch.Generator) -> None:
    dynamics = KnownDynamics(lambda s, a: s * 1e200 * (s > 0) + a, noise_std=torch.zeros(1, dtype=torch.float64))
    world = World(Nothing(), dynamics, lambda s, a, n: n[..., 0], None)
    policy = LinearPolicy(torch.tensor([[0.5]], dtype=torch.float64))
    starts = torch.tensor([[[2.0], [-2.0]]], dtype=torch.float64)
    zeros = torch.zeros(4, 1, 2, 1, dtype=torch.float64)
    imagined = imagine_policy(world, policy, starts, {}, model_noise=zeros, policy_noise=zeros)
    assert imagined.lived[:, 0].tolist() == [[False, True]] * 4
    assert imagined.rewards[:, 0, 0].tolist() == [0.0] * 4
    assert bool(imagined.states.isfinite().all())
    returns_of(imagined, discount=1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert policy.gain.grad is not None
    # −2 k, −2 k², …: the sound trajectory alone.
    assert float(policy.gain.grad) == pytest.approx(sum(-2 * t * 0.5 ** (t - 1) for t in range(1, 5)))


def test_the_value_at_the_end_counts_for_who_goes_on() -> None:
    dynamics = KnownDynamics(lambda s, a: s + 1, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: n[..., 0], lambda s, a, n: n[..., 0] >= 3)
    policy = LinearPolicy(torch.zeros(1, 1))
    starts, zeros = torch.tensor([[[0.0], [1.0]]]), torch.zeros(2, 1, 2, 1)
    imagined = imagine_policy(world, policy, starts, {}, model_noise=zeros, policy_noise=zeros)
    assert imagined.terminated[:, 0].tolist() == [[False, False], [False, True]]
    returns = returns_of(imagined, discount=0.5, value=lambda s: 100 * s[..., 0])
    assert returns.tolist() == [[1 + 0.5 * 2 + 0.25 * 200, 2 + 0.5 * 3]]
    longer = torch.zeros(3, 1, 2, 1)
    imagined = imagine_policy(world, policy, starts, {}, model_noise=longer, policy_noise=longer)
    assert returns_of(imagined, discount=1.0, value=lambda s: 100 * s[..., 0]).tolist() == [[6.0, 5.0]]
    assert dataclasses.replace(world, termination=None).step({}, starts, starts, zeros[0])[2].any().item() is False


@pytest.mark.parametrize("num_theta", [1, 2, 3, 7])
def test_branches_are_short_rollouts_that_end_where_they_end(num_theta: int, generator: torch.Generator) -> None:
    dynamics = KnownDynamics(lambda s, a: s + 1, noise_std=torch.zeros(1))
    world = World(Nothing(), dynamics, lambda s, a, n: 10 * n[..., 0], lambda s, a, n: n[..., 0] >= 5)
    policy = LinearPolicy(torch.full((1, 1), 0.5))
    starts = torch.tensor([[0.0], [3.0], [4.0], [1.0], [float("inf")]])
    batch = branch(dataclasses.replace(world, num_theta=num_theta), policy, starts, length=3, generator=generator)
    seen = sorted(zip(batch.state[:, 0].tolist(), batch.terminated.tolist(), strict=True))
    ends = {0.0: 3, 3.0: 2, 4.0: 1, 1.0: 3}
    assert seen == sorted((s + t, s + t == 4) for s, steps in ends.items() for t in range(steps))
    assert torch.equal(batch.next_state, batch.state + 1)
    assert torch.equal(batch.action, 0.5 * batch.state)
    assert torch.equal(batch.reward, 10 * batch.next_state[:, 0])
    assert not batch.action.requires_grad
    with pytest.raises(ValueError, match=r"need length >= 1, got 0"):
        branch(world, policy, starts, length=0, generator=generator)


class Shifts(KnownDynamics):
    """s' = s + a + θ_k: which θ a particle met in a step can be read off its path."""

    def __init__(self) -> None:
        super().__init__(lambda s, a: s, noise_std=torch.zeros(1, dtype=torch.float64))

    def sample(self, theta: Theta, states: Tensor, actions: Tensor, noise: Tensor, **_: Any) -> Tensor:
        return states + actions + theta["shift"][:, None, None]


def test_under_ts1_a_particle_meets_another_theta_in_each_step_and_keeps_its_path(generator: torch.Generator) -> None:
    num_theta, num_starts, horizon = 4, 300, 5
    shifts = 10.0 ** torch.arange(num_theta, dtype=torch.float64)
    world = World(DrawsPosterior({"shift": shifts}), Shifts(), lambda s, a, n: (n - s - a)[..., 0], None)
    world = dataclasses.replace(world, num_theta=num_theta, propagation=ts_1)
    policy = LinearPolicy(torch.full((1, 1), 0.25, dtype=torch.float64))
    starts = 1e-3 * torch.arange(num_theta * num_starts, dtype=torch.float64).view(num_theta, num_starts, 1)
    randomness = world.draw(horizon, starts, 1, generator=generator)
    assert randomness.propagation_noise is not None
    assert randomness.propagation_noise.shape == (horizon, num_theta, num_starts, 1)
    arguments = {**randomness._asdict(), "theta": {"shift": shifts}}
    imagined = imagine_policy(world, policy, starts, **arguments)
    steps = (imagined.states[1:] - imagined.states[:-1] - imagined.actions)[..., 0]
    assert torch.equal(imagined.states[0], starts)
    torch.testing.assert_close(imagined.rewards, steps, atol=1e-8, rtol=0)
    torch.testing.assert_close(imagined.actions, 0.25 * imagined.states[:-1])
    met = steps.log10().round().long()
    torch.testing.assert_close(steps, shifts[met], atol=1e-8, rtol=0)
    assert torch.equal(met.sort(dim=1).values, torch.arange(num_theta).view(1, -1, 1).expand_as(met))  # none twice
    counts = torch.bincount((met + num_theta * torch.arange(num_theta).view(1, -1, 1)).flatten())
    expected = horizon * num_starts / num_theta
    assert bool(((counts - expected).abs() < 5 * (expected * (1 - 1 / num_theta)) ** 0.5).all())
    stays = imagine_policy(dataclasses.replace(world, propagation=ts_infinity), policy, starts, **arguments)
    steps = (stays.states[1:] - stays.states[:-1] - stays.actions)[..., 0]
    torch.testing.assert_close(steps, shifts[:, None].expand_as(steps), atol=1e-8, rtol=0)


def test_with_one_theta_ts1_is_ts_infinity(generator: torch.Generator) -> None:
    world = dataclasses.replace(network_world(generator), num_theta=1, propagation=ts_1)
    bound = torch.ones(2, dtype=torch.float64)
    policy = make_policy("tanh-gaussian", 3, -bound, bound, hidden=(6,), generator=generator).double()
    starts = torch.randn(1, 9, 3, dtype=torch.float64, generator=generator)
    randomness = world.draw(4, starts, 2, generator=generator)
    one = imagine_policy(world, policy, starts, **randomness._asdict())
    other = imagine_policy(dataclasses.replace(world, propagation=ts_infinity), policy, starts, **randomness._asdict())
    assert all(map(torch.equal, one, other))
