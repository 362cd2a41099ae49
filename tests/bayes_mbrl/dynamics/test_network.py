import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import NetworkDynamics, learned_termination
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.inference import svi
from bayes_mbrl.inference.base import parameter_shapes
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.scratch import Buffers

K, M, C = 4, 2, 6

every_noise = pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic", "fixed"])


def angle_to_circle(state: Tensor) -> Tensor:
    """(angle, s_1, s_2) → (sin, cos, s_1, s_2)."""
    return torch.cat([state[..., :1].sin(), state[..., :1].cos(), state[..., 1:]], dim=-1)


def predict_one(
    dynamics: NetworkDynamics, theta: dict[str, Tensor], k: int, state: Tensor, action: Tensor
) -> list[float]:
    """Mean of s' [S] with fixed noise and one hidden tanh layer, number by number."""
    raw = [*dynamics.features(state).tolist(), *action.tolist()]
    inputs, targets = dynamics.inputs, dynamics.targets
    z = [(x - m) / s for x, m, s in zip(raw, inputs.mean.tolist(), inputs.std.tolist(), strict=True)]
    w0, b0, w1, b1 = (theta[name][k].tolist() for name in ("weight_0", "bias_0", "weight_1", "bias_1"))
    hidden = [math.tanh(sum(z[i] * w0[i][j] for i in range(len(z))) + b0[j]) for j in range(len(b0))]
    y = [sum(hidden[j] * w1[j][o] for j in range(len(hidden))) + b1[o] for o in range(len(b1))]
    change = [v * s + m for v, s, m in zip(y, targets.std.tolist(), targets.mean.tolist(), strict=True)]
    return [d + s for d, s in zip(change, [*state.tolist(), 0.0], strict=False)]


@pytest.mark.parametrize("learns_reward", [False, True])
def test_prediction_by_hand(network_problem: Any, transitions: Transitions, learns_reward: bool) -> None:
    """With features of the state: they are inputs only, what is predicted is the change of the state itself."""
    dynamics, posterior = network_problem(
        hidden=(3,),
        activation="tanh",
        noise="fixed",
        noise_std=0.2,
        features=angle_to_circle,
        learns_reward=learns_reward,
    )
    assert posterior.draws["weight_0"].shape == (7, 4 + 2, 3)
    mean, std = dynamics.predict(posterior.draws, transitions.state[:5].expand(7, 5, 3), transitions.action[:5])
    assert mean.shape == std.shape == (7, 5, 3 + learns_reward)
    for k, row in [(0, 0), (3, 4), (6, 2)]:
        expected = predict_one(dynamics, posterior.draws, k, transitions.state[row], transitions.action[row])
        assert mean[k, row].tolist() == pytest.approx(expected)
    torch.testing.assert_close(std, (0.2 * dynamics.targets.std).expand_as(std))


def test_targets_are_standardised_changes_and_the_reward(network_problem: Any, transitions: Transitions) -> None:
    dynamics, _ = network_problem(learns_reward=True)
    x, y = dynamics.regression_data(transitions)
    raw = torch.cat([transitions.next_state - transitions.state, transitions.reward[:, None]], dim=1)
    torch.testing.assert_close(y * dynamics.targets.std + dynamics.targets.mean, raw)
    for values in (x, y):
        torch.testing.assert_close(values.mean(0), torch.zeros_like(values[0]), atol=1e-12, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]))


@pytest.mark.parametrize("learns_reward", [False, True])
def test_a_termination_is_learned_behind_all_others(
    network_problem: Any, transitions: Transitions, learns_reward: bool
) -> None:
    dynamics, posterior = network_problem(learns_reward=learns_reward, learns_termination=True)
    size = 3 + learns_reward
    assert (dynamics.state_dim, dynamics.continuous_dim, dynamics.output_dim) == (3, size, size + 1)
    _, y = dynamics.regression_data(transitions)
    assert torch.equal(y[:, -1], transitions.terminated.double())
    plain = network_problem(learns_reward=learns_reward)[0]
    torch.testing.assert_close(y[:, :-1], plain.regression_data(transitions)[1])
    theta, states = posterior.draws, transitions.state.expand(7, 23, 3)
    mean, std = dynamics.predict(theta, states, transitions.action)
    assert mean.shape == std.shape == (7, 23, size + 1)
    probability = dynamics.termination_probability(theta, states, transitions.action)
    torch.testing.assert_close(probability, Normal(0, 1).cdf(mean[..., -1] / std[..., -1]))
    assert float(probability.std(0).max()) > 0.05, "draws of θ differ about it"

    assert dynamics.termination is learned_termination
    noise = torch.randn(7, 23, size + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    drawn = dynamics.sample(theta, states, transitions.action, noise)
    expected = mean[..., -1] + std[..., -1] * noise[..., -1] > 0
    assert torch.equal(dynamics.termination(states, transitions.action, drawn), expected)
    if learns_reward:
        assert torch.equal(dynamics.reward(states, transitions.action, drawn), drawn[..., 3])
    else:
        assert dynamics.reward is None

    outcome = torch.cat([transitions.next_state, transitions.reward[:, None]], 1)[:, :size]
    density = Normal(mean[..., :-1], std[..., :-1]).log_prob(outcome).sum(-1)
    latent = mean[..., -1] / std[..., -1]
    of_end = torch.from_numpy(stats.norm.logcdf(torch.where(transitions.terminated, latent, -latent).numpy()))
    torch.testing.assert_close(dynamics.log_likelihood(theta, transitions), density + of_end)
    with_all = torch.cat([states, torch.full((7, 23, size - 2), 1e9)], dim=-1)  # what is carried along in a rollout
    assert torch.equal(dynamics.predict(theta, with_all, transitions.action)[0], mean)


def test_without_an_end_in_the_data_no_episode_is_imagined_to_end(
    network_problem: Any, transitions: Transitions
) -> None:
    """The parameters are the same all the same: the next fit starts from this one."""
    endless = dataclasses.replace(transitions, terminated=torch.zeros(23, dtype=torch.bool))
    dynamics = NetworkDynamics.from_data(endless, learns_termination=True, hidden=(6, 5))
    assert dynamics.termination is None
    assert parameter_shapes(dynamics.model) == parameter_shapes(network_problem(learns_termination=True)[0].model)
    assert not dynamics.regression_data(endless)[1][:, -1].any()
    with pytest.raises(TypeError, match="learns no termination"):
        network_problem()[0].termination_probability({}, endless.state, endless.action)


def _leaving(count: int, share: float, generator: torch.Generator) -> tuple[Transitions, Tensor]:
    """s' = s + a + noise in the plane, terminal where |s_0 + a_0| is beyond the limit that makes `share` of them so;
    and how far beyond [N].
    """
    state, action = torch.randn(count, 2, generator=generator), 0.6 * torch.rand(count, 2, generator=generator) - 0.3
    following = state + action
    reach = following[:, 0].abs()
    beyond = reach - reach.quantile(1 - share)
    noise = 0.003 * torch.randn(count, 2, generator=generator)
    nothing = torch.zeros(count, dtype=torch.long)
    return Transitions(state, action, torch.ones(count), following + noise, beyond > 0, nothing), beyond


@pytest.mark.slow
@pytest.mark.parametrize(("share", "count", "least", "most"), [(0.15, 600, 0.8, 0.05), (0.02, 1000, 0.4, 0.01)])
def test_a_boundary_is_learned_from_where_episodes_ended(
    share: float, count: int, least: float, most: float, generator: torch.Generator
) -> None:
    """Twenty ends of a thousand are enough to foresee others; what lies within is not taken for one."""
    everything, beyond = _leaving(count + 3000, share, generator)
    seen, unseen, beyond = everything[:count], everything[count:], beyond[count:]
    dynamics = NetworkDynamics.from_data(seen, learns_reward=True, learns_termination=True, hidden=(32, 32))
    x, y = dynamics.regression_data(seen)
    posterior, _ = svi.fit(dynamics.model, x, y, generator=generator, num_steps=1500, kl_weight=0.3, learning_rate=0.01)
    theta = posterior.sample(20, generator=generator)
    found = dynamics.termination_probability(theta, unseen.state.expand(20, -1, -1), unseen.action).mean(0)
    clear = beyond.abs() > 0.1
    assert float(((found > 0.5) == unseen.terminated)[clear].float().mean()) > 0.97
    assert float(found[unseen.terminated & clear].mean()) > least
    assert float(found[~unseen.terminated & clear].mean()) < most
    score = torch.where(unseen.terminated, found, 1 - found).log().mean()
    base = share * math.log(share) + (1 - share) * math.log(1 - share)
    assert float(score) > 0.5 * base, "half of what is lost by knowing no more than how often it happens"


@pytest.mark.parametrize("value", [1.0, 0.0, -1000.0])
def test_a_constant_reward_is_predicted_as_such(value: float, transitions: Transitions) -> None:
    """One for every step, say: whatever the weights, within a few thousandths of it, noise included."""
    constant = dataclasses.replace(transitions, reward=torch.full_like(transitions.reward, value))
    dynamics = NetworkDynamics.from_data(constant, learns_reward=True, learns_termination=True, hidden=(8,))
    theta = dynamics.model.initial(5, generator=torch.Generator().manual_seed(0))
    states, noise = transitions.state.expand(5, 23, 3), torch.full((5, 23, 5), 2.0, dtype=torch.float64)
    drawn = dynamics.sample(theta, states, transitions.action, noise)
    assert dynamics.reward is not None
    reward = dynamics.reward(states, transitions.action, drawn)
    assert ((reward - value).abs() < 1e-2 * max(abs(value), 1)).all()


@pytest.mark.slow
def test_a_sparse_reward_is_learned_where_it_is(generator: torch.Generator) -> None:
    """100 in three of a hundred steps, where the episode ends too, else a small cost of the action.

    With one std for all states: one that is learned state by state takes rare rewards for noise (decision 0012).
    """
    everything, beyond = _leaving(3000, 0.03, generator)
    everything = dataclasses.replace(everything, reward=100.0 * (beyond > 0) - 0.1 * everything.action[:, 0] ** 2)
    seen, unseen, beyond = everything[:1000], everything[1000:], beyond[1000:]
    dynamics = NetworkDynamics.from_data(
        seen, learns_reward=True, learns_termination=True, hidden=(32, 32), noise="homoscedastic"
    )
    x, y = dynamics.regression_data(seen)
    posterior, _ = svi.fit(dynamics.model, x, y, generator=generator, num_steps=1500, kl_weight=0.3, learning_rate=0.01)
    theta = posterior.sample(20, generator=generator)
    mean = dynamics.predict(theta, unseen.state.expand(20, -1, -1), unseen.action)[0][..., 2].mean(0)
    assert float(mean[beyond > 0.2].mean()) > 60
    assert float(mean[beyond < -0.2].abs().mean()) < 5


def test_new_data_are_standardised_as_the_first(network_problem: Any, transitions: Transitions) -> None:
    dynamics, _ = network_problem()
    x, y = dynamics.regression_data(transitions)
    part_x, part_y = dynamics.regression_data(transitions[4:9])
    torch.testing.assert_close(part_x, x[4:9])
    torch.testing.assert_close(part_y, y[4:9])


@every_noise
@pytest.mark.parametrize("learns_reward", [False, True])
@pytest.mark.parametrize("scratch", [None, Buffers()])
def test_leading_axes_are_taken_one_by_one(
    network_problem: Any, transitions: Transitions, noise: str, learns_reward: bool, scratch: Any
) -> None:
    """states [K, M, C, S]; actions [C, A], or [K, M, C, A] in full."""
    dynamics, posterior = network_problem(noise=noise, learns_reward=learns_reward)
    theta = {name: draws[:K] for name, draws in posterior.draws.items()}
    states = torch.randn(K, M, C, dynamics.output_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actions = transitions.action[:C]
    keywords = {} if scratch is None else {"scratch": scratch}
    with torch.no_grad():
        together = [value.clone() for value in dynamics.predict(theta, states, actions, **keywords)]
        in_full = [v.clone() for v in dynamics.predict(theta, states, actions.expand(K, M, C, 2), **keywords)]
        for k in range(K):
            one_theta = {name: draws[k : k + 1] for name, draws in theta.items()}
            for m in range(M):
                alone = dynamics.predict(one_theta, states[k : k + 1, m], actions)
                for all_values, same, values in zip(together, in_full, alone, strict=True):
                    torch.testing.assert_close(all_values[k, m], values[0])
                    torch.testing.assert_close(same[k, m], values[0])


def test_a_sample_is_mean_plus_std_times_noise(network_problem: Any, transitions: Transitions) -> None:
    dynamics, posterior = network_problem()
    states, actions = transitions.state.expand(7, M, 23, 3), transitions.action
    noise = torch.randn(7, M, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, std = dynamics.predict(posterior.draws, states, actions)
    expected = mean + std * noise
    torch.testing.assert_close(dynamics.sample(posterior.draws, states, actions, noise), expected)


@every_noise
@pytest.mark.parametrize("learns_reward", [False, True])
def test_log_likelihood_is_the_density_in_the_environments_units(
    network_problem: Any, transitions: Transitions, noise: str, learns_reward: bool
) -> None:
    dynamics, posterior = network_problem(noise=noise, learns_reward=learns_reward)
    mean, std = dynamics.predict(posterior.draws, transitions.state.expand(7, 23, 3), transitions.action)
    outcome = transitions.next_state
    if learns_reward:
        outcome = torch.cat([outcome, transitions.reward[:, None]], dim=1)
    expected = Normal(mean, std).log_prob(outcome).sum(-1)
    got = dynamics.log_likelihood(posterior.draws, transitions)
    assert got.shape == (7, 23)
    torch.testing.assert_close(got, expected)


@every_noise
def test_other_units_shift_the_log_likelihood_by_their_logarithm(
    network_problem: Any, transitions: Transitions, noise: str
) -> None:
    """θ speaks about standardised numbers, so the same θ in other units is the same belief."""
    dynamics, posterior = network_problem(noise=noise)
    unit, offset = torch.tensor([1e3, 0.5, 1e-4], dtype=torch.float64), torch.tensor([7.0, -3.0, 0.0])
    converted = dataclasses.replace(
        transitions, state=transitions.state * unit + offset, next_state=transitions.next_state * unit + offset
    )
    same = NetworkDynamics.from_data(converted, hidden=(6, 5), noise=noise)
    torch.testing.assert_close(
        same.log_likelihood(posterior.draws, converted),
        dynamics.log_likelihood(posterior.draws, transitions) - unit.log().sum(),
    )


def test_log_likelihood_does_not_depend_on_the_normalisation(network_problem: Any, transitions: Transitions) -> None:
    """Another standardisation with the weights that undo it is the same function, so the same density."""
    dynamics, posterior = network_problem(noise="fixed", noise_std=0.3)
    inputs = Standardiser(torch.arange(5.0).double(), torch.arange(1.0, 6.0).double())
    targets = Standardiser(torch.tensor([1.0, -2.0, 3.0]).double(), 4 * dynamics.targets.std)
    other = NetworkDynamics(
        BayesianNetwork(5, 3, hidden=(6, 5), noise="fixed", noise_std=0.3 / 4, dtype=torch.float64),
        features=dynamics.features,
        input_standardiser=inputs,
        target_standardiser=targets,
        learns_reward=False,
    )
    theta = dict(posterior.draws)
    theta["bias_0"] = theta["bias_0"] + ((inputs.mean - dynamics.inputs.mean) / dynamics.inputs.std) @ theta["weight_0"]
    theta["weight_0"] = theta["weight_0"] * (inputs.std / dynamics.inputs.std)[:, None]
    theta["weight_2"] = theta["weight_2"] / 4
    theta["bias_2"] = theta["bias_2"] / 4 + (dynamics.targets.mean - targets.mean) / targets.std
    torch.testing.assert_close(
        other.log_likelihood(theta, transitions), dynamics.log_likelihood(posterior.draws, transitions)
    )


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e6])
def test_a_constant_state_dimension_does_no_harm(transitions: Transitions, constant: float) -> None:
    """Neither its input nor its target is divided by a rounding error; off the data, numbers stay moderate."""
    state, next_state = transitions.state.clone(), transitions.next_state.clone()
    state[:, 1] = next_state[:, 1] = constant
    fields = {"state": state, "next_state": next_state, "action": transitions.action, "reward": transitions.reward}
    data = dataclasses.replace(transitions, **{name: values.float() for name, values in fields.items()})
    dynamics = NetworkDynamics.from_data(data, hidden=(4,))
    theta = dynamics.model.initial(3, generator=torch.Generator().manual_seed(0))
    x, y = dynamics.regression_data(data)
    assert (x[:, 1] == 0).all()
    assert (y[:, 1] == 0).all()
    assert torch.isfinite(dynamics.log_likelihood(theta, data)).all()
    mean, std = dynamics.predict(theta, data.state.expand(3, -1, -1), data.action)
    assert (mean[..., 1] - constant).abs().max() < 1e-2 * max(1, constant)
    assert std[..., 1].max() < 3e-3 * max(1, constant)


def test_a_coordinate_that_stood_still_does_not_jitter(transitions: Transitions) -> None:
    """It differs between episodes and never within one, like the target of a reaching task."""
    state = torch.cat([transitions.state, torch.linspace(-0.2, 0.2, len(transitions)).unsqueeze(-1)], dim=-1)
    next_state = torch.cat([transitions.next_state, state[:, -1:]], dim=-1)
    data = dataclasses.replace(transitions, state=state, next_state=next_state)
    dynamics = NetworkDynamics.from_data(data, hidden=(4,), min_std=0.03)
    theta = dynamics.model.initial(3, generator=torch.Generator().manual_seed(0))
    mean, std = dynamics.predict(theta, state.expand(3, -1, -1), data.action)
    assert (mean[..., -1] - state[:, -1]).abs().max() < 1e-3
    assert std[..., -1].max() < 1e-3


def test_a_learned_reward_in_the_state_is_not_an_input(network_problem: Any, transitions: Transitions) -> None:
    """Within a rollout the states carry the last reward along."""
    dynamics, posterior = network_problem(learns_reward=True)
    states = transitions.next_state.expand(7, 23, 3)
    with_reward = torch.cat([states, torch.full((7, 23, 1), 1e9)], dim=-1)
    for expected, got in zip(
        dynamics.predict(posterior.draws, states, transitions.action),
        dynamics.predict(posterior.draws, with_reward, transitions.action),
        strict=True,
    ):
        assert torch.equal(got, expected)
