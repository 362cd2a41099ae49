import pytest
import torch
from torch.distributions import Normal

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import linear_gaussian_step


@pytest.fixture
def known() -> KnownDynamics:
    return KnownDynamics(linear_gaussian_step, noise_std=torch.tensor([0.1, 0.2, 3.0], dtype=torch.float64))


def test_mean_is_the_step_and_std_the_given_one(known: KnownDynamics, transitions: Transitions) -> None:
    states = transitions.state.expand(2, 4, 23, 3)
    mean, std = known.predict({}, states, transitions.action)
    torch.testing.assert_close(mean, linear_gaussian_step(transitions.state, transitions.action).expand_as(states))
    assert torch.equal(std, known.noise_std.expand_as(states))


def test_log_likelihood_is_the_normal_density(known: KnownDynamics, transitions: Transitions) -> None:
    mean = linear_gaussian_step(transitions.state, transitions.action)
    expected = Normal(mean, known.noise_std).log_prob(transitions.next_state).sum(-1)
    torch.testing.assert_close(known.log_likelihood({}, transitions), expected[None])


def test_without_noise_a_sample_is_the_step(transitions: Transitions) -> None:
    known = KnownDynamics(linear_gaussian_step, noise_std=torch.zeros(3, dtype=torch.float64))
    states = transitions.state.expand(2, 1, 23, 3)
    sample = known.sample({}, states, transitions.action, torch.ones(2, 1, 1, 3, dtype=torch.float64))
    assert torch.equal(sample, linear_gaussian_step(states, transitions.action))


def test_there_is_nothing_to_learn(known: KnownDynamics, transitions: Transitions, generator: torch.Generator) -> None:
    with pytest.raises(TypeError, match="no parameters to be fitted"):
        known.regression_data(transitions)
    before = generator.get_state()
    assert Nothing.from_tensors(Nothing().tensors()).sample(5, generator=generator) == {}
    assert torch.equal(generator.get_state(), before)
