"""The folded network against the plain path, which is its reference."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics
from bayes_mbrl.dynamics.linear import LinearDynamics
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.rollout import evaluate_plans

M, C = 2, 6


def angle_to_circle(state: Tensor) -> Tensor:
    return torch.cat([state[..., :1].sin(), state[..., :1].cos(), state[..., 1:]], dim=-1)


def cast(rows: Transitions, dtype: torch.dtype) -> Transitions:
    names = ("state", "action", "reward", "next_state")
    return dataclasses.replace(rows, **{name: getattr(rows, name).to(dtype) for name in names})


def step(dynamics: NetworkDynamics, posterior: DrawsPosterior, rows: Transitions, scratch: Any) -> list[Tensor]:
    """Two steps and one with fewer candidates of all draws, from rows of the data."""
    noise = torch.empty(3, posterior.num_draws, M, 1, dynamics.output_dim, dtype=rows.state.dtype)
    noise.normal_(generator=torch.Generator().manual_seed(5))
    sample = dynamics.sampler(posterior.draws, noise, scratch=scratch)
    results = []
    states = rows.state[:C].expand(posterior.num_draws, M, C, -1)
    for number, count in enumerate((C, C, C - 2)):
        states = sample(number, states[:, :, :count], rows.action[:count])
        results.append(states.clone())
    return results


SETTINGS = {
    "heteroscedastic": {},
    "homoscedastic": {"noise": "homoscedastic"},
    "fixed": {"noise": "fixed", "noise_std": 0.3},
    "features": {"features": angle_to_circle},
    "learned reward": {"learns_reward": True, "features": angle_to_circle},
    "learned termination": {"learns_termination": True, "max_std": 1.5},
    "homoscedastic and both": {"noise": "homoscedastic", "learns_termination": True, "learns_reward": True},
    "fixed, termination": {"noise": "fixed", "noise_std": 0.2, "learns_termination": True, "hidden": ()},
    "scale of each layer": {"prior_scale_log_std": 0.5},
    "no hidden layer": {"hidden": ()},
    "one hidden layer": {"hidden": (4,), "activation": "tanh"},
    "relu": {"hidden": (4, 3, 2), "activation": "relu"},
    "student-t": {"likelihood": "student-t", "min_std": 0.1, "max_std": 0.7},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_equal_to_the_plain_path(network_problem: Any, transitions: Transitions, settings: dict[str, Any]) -> None:
    dynamics, posterior = network_problem(**settings)
    with torch.no_grad():
        folded = step(dynamics, posterior, transitions, Buffers())
        plain = step(dynamics, posterior, transitions, NO_SCRATCH)
    assert [tensor.shape for tensor in folded] == [tensor.shape for tensor in plain]
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)


def test_linear_dynamics_too(transitions: Transitions) -> None:
    dynamics = LinearDynamics.from_data(transitions)
    posterior = DrawsPosterior(dynamics.model.initial(1, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        folded = step(dynamics, posterior, transitions, Buffers())
        torch.testing.assert_close(folded, step(dynamics, posterior, transitions, NO_SCRATCH))


def test_a_badly_scaled_input_keeps_its_digits(network_problem: Any, transitions: Transitions) -> None:
    """float32, and a coordinate 10,000 spreads away from 0: as exact as the plain path is against float64."""
    shift = torch.tensor([1e4, 0.0, -3.0], dtype=torch.float64)
    moved = dataclasses.replace(transitions, state=transitions.state + shift, next_state=transitions.next_state + shift)
    moved = cast(moved, torch.float32)
    exact = NetworkDynamics.from_data(cast(moved, torch.float64), hidden=(6, 5))
    single = NetworkDynamics.from_data(moved, hidden=(6, 5))
    single.inputs = dataclasses.replace(exact.inputs, mean=exact.inputs.mean.float(), std=exact.inputs.std.float())
    single.targets = dataclasses.replace(exact.targets, mean=exact.targets.mean.float(), std=exact.targets.std.float())
    _, posterior = network_problem()
    posterior32 = DrawsPosterior({name: value.float() for name, value in posterior.draws.items()})
    with torch.no_grad():
        truth = step(exact, posterior, cast(moved, torch.float64), NO_SCRATCH)[0] - moved.state[:C].double()
        errors = [
            float(((step(single, posterior32, moved, scratch)[0] - moved.state[:C]).double() - truth).abs().max())
            for scratch in (Buffers(), NO_SCRATCH)
        ]
    assert errors[0] < 2 * errors[1]


# bf16


def returns(dynamics: NetworkDynamics, posterior: DrawsPosterior, state: Tensor, *, bf16: bool) -> Tensor:
    plans = torch.randn(40, 15, 2, generator=torch.Generator().manual_seed(3), dtype=state.dtype)
    with torch.no_grad():
        return evaluate_plans(
            plans,
            state,
            posterior=posterior,
            dynamics=dynamics,
            reward=lambda s, a, n: n[..., 0] - 0.1 * n[..., 1].square(),
            objective=expected_return(),
            num_theta=7,
            generator=torch.Generator().manual_seed(0),
            bf16=bf16,
        )


def test_bf16_is_near_float32(network_problem: Any, transitions: Transitions) -> None:
    """Within 1 % of a return on average, and 3 % of the spread over plans; and it is not float32."""
    single = cast(transitions, torch.float32)
    dynamics = NetworkDynamics.from_data(single, hidden=(32, 32, 32))
    posterior = DrawsPosterior(dynamics.model.initial(7, generator=torch.Generator().manual_seed(1)))
    full, half = (returns(dynamics, posterior, single.state[0], bf16=bf16) for bf16 in (False, True))
    error = (half - full).abs().mean()
    assert half.dtype == torch.float32
    assert 0 < error < 0.01 * full.abs().mean()
    assert error < 0.03 * full.std()


def test_bf16_is_of_products_between_hidden_layers(network_problem: Any, transitions: Transitions) -> None:
    """With one hidden layer there are none, and nothing changes."""
    dynamics, posterior = network_problem(hidden=(9,))
    full, half = (returns(dynamics, posterior, transitions.state[0], bf16=bf16) for bf16 in (False, True))
    assert torch.equal(full, half)


def test_bf16_where_it_cannot_be(network_problem: Any, transitions: Transitions) -> None:
    known = KnownDynamics(lambda s, a: s, noise_std=torch.ones(3))
    with pytest.raises(ValueError, match="KnownDynamics has none"):
        known.sampler({}, torch.zeros(2, 1, 1, 1, 3), scratch=Buffers(), bf16=True)
    dynamics, posterior = network_problem()
    with pytest.raises(ValueError, match="without gradients"):
        dynamics.sampler(posterior.draws, torch.zeros(2, 7, 1, 1, 3), scratch=NO_SCRATCH, bf16=True)
