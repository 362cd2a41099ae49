"""What a plan would tell about θ: closed forms, the laws that a score has, and an agent that goes there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms import information_gain as module
from bayes_mbrl.algorithms import mpc
from bayes_mbrl.algorithms.information_gain import InformationSeekingAgent, information_gain
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.dynamics.linear import LinearDynamics
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.inference import exact_linear
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.draws import DrawsPosterior

K, M, C, H = 6, 3, 5, 4


def plans(num: int = C, horizon: int = H) -> Tensor:
    return torch.randn(num, horizon, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(41))


def leaves_a_box(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0].abs() > 1.5


def scaled(transitions: Transitions, units: Tensor) -> Transitions:
    return dataclasses.replace(transitions, state=transitions.state * units, next_state=transitions.next_state * units)


@pytest.fixture
def gain(network_problem: Any, transitions: Transitions) -> Callable[..., Tensor]:
    """Gains of plans under a network and seven draws; the same seed in every call."""

    def of(candidates: Tensor, *, seed: int = 0, learns_reward: bool = False, **changes: Any) -> Tensor:
        dynamics, posterior = network_problem(learns_reward=learns_reward)
        settings: dict[str, Any] = {
            "posterior": posterior,
            "dynamics": dynamics,
            "num_theta": K,
            "num_noise": M,
            "generator": torch.Generator().manual_seed(seed),
            **changes,
        }
        return information_gain(candidates, transitions.state[0], **settings)

    return of


def test_the_latent_number_of_a_learned_termination_tells_nothing(
    network_problem: Any, transitions: Transitions
) -> None:
    """However much samples of θ disagree about it: within an episode it is all but sure which sign it has."""
    dynamics, posterior = network_problem(learns_termination=True)
    apart = {name: value.clone() for name, value in posterior.draws.items()}
    apart["bias_2"][:, 3] += 50 * torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = (
        information_gain(
            plans(), transitions.state[0], posterior=draws, dynamics=dynamics, num_theta=K, num_noise=M,
            generator=torch.Generator().manual_seed(0),
        )
        for draws in (posterior, DrawsPosterior(apart))
    )  # fmt: skip
    assert (first > 0.1).all()
    torch.testing.assert_close(first, second)


@torch.no_grad()
@pytest.mark.parametrize("num_rows", [3, 23])
def test_one_step_of_bayesian_linear_regression(transitions: Transitions, num_rows: int) -> None:
    """I(θ; y | x) = ½ log(1 + φᵀ S φ / σ²) for each output, φ = (x, 1), S the posterior covariance."""
    data = transitions[:num_rows]
    dynamics = LinearDynamics.from_data(data, noise_std=0.4)
    assert isinstance(dynamics, NetworkDynamics)
    x, y = dynamics.regression_data(data)
    posterior, _ = exact_linear.fit(dynamics.model, x, y, generator=torch.Generator())
    candidates, state, num_theta = 3 * plans(C, 1), transitions.state[7], 20_000
    inputs = torch.cat([state.expand(C, -1), candidates[:, 0]], -1)
    features = torch.cat([dynamics.inputs(inputs), torch.ones(C, 1, dtype=torch.float64)], -1)
    ratio = (features @ posterior.factor).square().sum(-1) / 0.4**2
    got = information_gain(
        candidates,
        state,
        posterior=posterior,
        dynamics=dynamics,
        num_theta=num_theta,
        generator=torch.Generator().manual_seed(0),
    )
    # The variance of K normal numbers has the standard error √(2/K) of itself; three independent outputs.
    error = 0.5 * ratio / (1 + ratio) * (2 / num_theta) ** 0.5 * 3**0.5
    assert ((got - 1.5 * ratio.log1p()).abs() < 5 * error).all()
    assert got.max() - got.min() > 20 * error.max()


class Push(KnownDynamics):
    """s' = s + θ a + noise, a scalar θ: what is told does not depend on the state."""

    def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        mean = states + theta["push"].view(-1, 1, 1, 1) * actions
        return mean, self.noise_std.expand_as(mean)


def push(noise_std: float) -> Push:
    return Push(lambda s, a: s, noise_std=torch.tensor([noise_std], dtype=torch.float64))


def of_push(actions: list[list[float]], noise_std: float = 0.5, **settings: Any) -> Tensor:
    """θ is 1, 2 or 6: variance 7."""
    candidates = torch.tensor(actions, dtype=torch.float64)[..., None]
    return information_gain(
        candidates,
        torch.zeros(1, dtype=torch.float64),
        **{
            "posterior": DrawsPosterior({"push": torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)}),
            "dynamics": push(noise_std),
            "num_theta": 3,
            "num_noise": M,
            "generator": torch.Generator().manual_seed(0),
            **settings,
        },
    )


def test_disagreement_is_about_theta_and_not_about_states_that_parted() -> None:
    """Σ_t ½ log(1 + 7 a_t² / 0.5²): after a big push, steps without any tell nothing, though states are far apart."""
    actions = [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.1, -0.2, 1.0]]
    expected = 0.5 * (7 * torch.tensor(actions, dtype=torch.float64).square() / 0.25).log1p().sum(-1)
    torch.testing.assert_close(of_push(actions), expected)


def test_after_the_end_nothing_is_told() -> None:
    """All θ pass 0.9 by a push of 1 without noise; the step that ends an episode still counts."""
    settings: dict[str, Any] = {"noise_std": 1e-3, "termination": lambda s, a, n: n[..., 0] > 0.9}
    whole, cut, empty = of_push([[0.1, 1.0, 0.0], [0.1, 1.0, 1.0], [0.1, 0.0, 0.0]], **settings)
    assert whole == cut
    assert whole > empty > 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_diverges_tells_nothing_more(bad: float) -> None:
    class Breaks(Push):
        def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            mean, std = super().predict(theta, states, actions)
            return torch.where(actions > 5, bad, mean), std

    got = of_push([[1.0, 9.0, 1.0], [1.0, 0.0, 0.0]], dynamics=Breaks(lambda s, a: s, noise_std=torch.ones(1).double()))
    assert torch.isfinite(got).all()
    assert got[0] == got[1]


def test_without_noise_agreement_is_zero_and_disagreement_finite() -> None:
    nothing, much = of_push([[0.0, 0.0], [1.0, 1e9]], noise_std=0.0)
    assert nothing == 0
    assert torch.isfinite(much)
    assert much > 500


@torch.no_grad()
def test_a_point_posterior_learns_nothing(gain: Callable[..., Tensor], network_problem: Any) -> None:
    _, posterior = network_problem()
    alone = DrawsPosterior({name: draws[:1] for name, draws in posterior.draws.items()})
    assert gain(plans(), posterior=alone).abs().max() < 1e-12
    assert gain(plans()).min() > 0.1


@torch.no_grad()
def test_the_units_of_the_state_do_not_matter(transitions: Transitions, network_problem: Any) -> None:
    _, posterior = network_problem()
    results = []
    for units in ([1.0, 1.0, 1.0], [1e-3, 7.0, 300.0]):
        data = scaled(transitions, torch.tensor(units, dtype=torch.float64))
        results.append(
            information_gain(
                plans(),
                data.state[0],
                posterior=posterior,
                dynamics=NetworkDynamics.from_data(data, hidden=(6, 5)),
                num_theta=K,
                num_noise=M,
                generator=torch.Generator().manual_seed(0),
            )
        )
    torch.testing.assert_close(*results)


@torch.no_grad()
@pytest.mark.parametrize("learns_reward", [False, True])
def test_a_gain_does_not_depend_on_neighbours_or_chunks(gain: Callable[..., Tensor], learns_reward: bool) -> None:
    settings = {"termination": leaves_a_box, "learns_reward": learns_reward}
    together = gain(plans(), **settings)
    torch.testing.assert_close(torch.cat([gain(plan, **settings) for plan in plans().split(1)]), together)
    torch.testing.assert_close(gain(plans(), max_particles=2 * K * M, **settings), together)
    with torch.enable_grad():
        torch.testing.assert_close(gain(plans(), **settings), together)
    assert together.unique().numel() == C


@torch.no_grad()
def test_the_generator_decides(gain: Callable[..., Tensor]) -> None:
    first, again, other = (gain(plans(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()


@torch.no_grad()
def test_more_trajectories_than_samples_of_theta(gain: Callable[..., Tensor]) -> None:
    assert gain(plans(1, 1), num_theta=2, num_noise=7).shape == (1,)


def test_gradient_is_that_of_finite_differences(gain: Callable[..., Tensor]) -> None:
    assert torch.autograd.gradcheck(lambda p: gain(p), plans(2, 3).requires_grad_())


def test_one_theta_cannot_disagree(gain: Callable[..., Tensor], oracle: Any, ramp_planner: Any) -> None:
    with pytest.raises(ValueError, match="need num_theta >= 2 to see θ disagree, got 1"):
        gain(plans(), num_theta=1)
    planning = oracle("Pendulum-v1", ramp_planner)
    with pytest.raises(ValueError, match="need num_theta >= 2 to see θ disagree, got 1"):
        InformationSeekingAgent(planning, 1.0)
    with pytest.raises(ValueError, match="need weight finite and >= 0, got -1"):
        InformationSeekingAgent(dataclasses.replace(planning, num_theta=2), -1.0)


@torch.no_grad()
def test_an_agent_weighs_nats_against_the_return(oracle: Any, ramp_planner: Any) -> None:
    """Planning is greedy at weight 0; the sum is that of the two, drawn one after the other."""

    class Either(Posterior):
        def sample(self, n: int, *, generator: torch.Generator) -> Any:
            return {"push": torch.randn(n, generator=generator)}

        def tensors(self) -> Any:
            return {}

        from_tensors = None  # type: ignore[assignment]

    planning = oracle(
        "LinearGaussian-v0",
        dataclasses.replace(ramp_planner, low=-torch.ones(2), high=torch.ones(2)),
        dynamics=dataclass_push(),
        posterior=Either(),
        num_theta=4,
    )
    agent, state = InformationSeekingAgent(planning, 2.5), torch.tensor([0.3, -0.1, 0.7])
    candidates = plans().float()
    generator = torch.Generator().manual_seed(5)
    gains = information_gain(
        candidates, state, posterior=Either(), dynamics=planning.dynamics, num_theta=4, generator=generator
    )
    expected = planning.score(candidates, state, generator) + 2.5 * gains
    assert torch.equal(agent.score(candidates, state, torch.Generator().manual_seed(5)), expected)
    assert gains.min() > 0


def test_an_agent_searches_as_mpc_does(oracle: Any, ramp_planner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by all actions that will be executed, and by as many particles at once."""
    settings = {"num_theta": 2, "tolerance": 0.25, "replan_every": 3, "max_particles": 77}
    planning, seen = oracle("Pendulum-v1", ramp_planner, **settings), []

    def search(planner: Any, state: Any, score: Any, **how: Any) -> Any:
        seen.append((torch.is_grad_enabled(), how["tolerance"], how["num_executed"]))
        score(torch.zeros(1, ramp_planner.horizon, 1))
        return state

    monkeypatch.setattr(mpc, "search", search)
    asked = []

    def gain(plans: Tensor, *_: Any, max_particles: int, **__: Any) -> Tensor:
        asked.append(max_particles)
        return torch.zeros(len(plans))

    monkeypatch.setattr(module, "information_gain", gain)
    for agent in (planning, InformationSeekingAgent(planning, 1.0)):
        agent.act(torch.zeros(3), None, generator=torch.Generator().manual_seed(0))
    assert seen == [(False, 0.25, 3)] * 2
    assert asked == [77]


def test_chunks_are_those_of_a_rollout() -> None:
    """Equal: 700 plans of 20 particles under 8192 are two chunks of 352 and 348, not of 409 and 291."""
    sizes = []

    class Seeing(KnownDynamics):
        def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            sizes.append(len(actions))
            return states, torch.ones_like(states)

    information_gain(
        torch.zeros(700, 1, 1),
        torch.zeros(1),
        posterior=Nothing(),
        dynamics=Seeing(lambda s, a: s, noise_std=torch.ones(1)),
        num_theta=5,
        num_noise=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert sizes == [352, 348]


def dataclass_push() -> KnownDynamics:
    """Three states that one θ and the first action push alike."""

    class Pushes(KnownDynamics):
        def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            mean = states + theta["push"].view(-1, 1, 1, 1) * actions[..., :1]
            return mean, self.noise_std.expand_as(mean)

    return Pushes(lambda s, a: s, noise_std=torch.ones(3))


def test_a_known_dynamics_tells_nothing() -> None:
    known = KnownDynamics(lambda s, a: s + a, noise_std=torch.ones(1, dtype=torch.float64))

    class Same(KnownDynamics):
        def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            return known.predict(theta, states, actions)

    got = of_push([[1.0, -2.0]], dynamics=Same(known.step, noise_std=known.noise_std), posterior=Nothing())
    assert got == 0
