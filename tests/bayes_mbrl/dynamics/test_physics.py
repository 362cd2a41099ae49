"""Dynamics of a few physical parameters: toy_systems.DRIFT (S 2, A 1) and what a user can do wrong."""

import json
import pathlib
from typing import Any

import jax.numpy
import pytest
import torch
import toy_systems
import xarray
from matplotlib import image
from torch import Tensor
from torch.distributions import Normal
from toy_runs import Recorder, start

from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve, settings_model
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.physics import SYSTEMS, PhysicsDynamics, System, load_system
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.base import sample_prior
from bayes_mbrl.inference.scratch import Buffers
from bayes_mbrl.registry import POSTERIORS

DRIFT = "toy_environments:Drift-v0"
OF_ANY_MODEL = [
    pytest.param(name, marks=pytest.mark.slow if name == "nuts" else ())  # compiling takes ten seconds
    for name, row in POSTERIORS.rows.items()
    if not row.requires and "dropout" not in name
]


@pytest.fixture
def data(generator: torch.Generator) -> Transitions:
    """31 float64 transitions of Drift, noise (0.02, 0.5): the second number is large."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state, action = normal(31, 2) * torch.tensor([1.0, 30.0]), normal(31, 1)
    push = action * torch.tensor([[0.3, -0.1]])
    next_state = 0.9 * state + push + normal(31, 2) * torch.tensor([0.02, 0.5])
    flags = torch.zeros(31)
    return Transitions(state, action, -state.square().sum(1), next_state, flags.bool(), flags.long())


@pytest.fixture
def drift(data: Transitions) -> PhysicsDynamics:
    return PhysicsDynamics.fitted_to(data, toy_systems.DRIFT)


def test_data_are_raw_inputs_and_changes_in_units_of_their_std(drift: PhysicsDynamics, data: Transitions) -> None:
    x, y = drift.regression_data(data)
    assert torch.equal(x, torch.cat([data.state, data.action], 1))
    change = data.next_state - data.state
    torch.testing.assert_close(y, change / change.std(0, correction=0))


def test_prediction_by_hand_whatever_axes_the_states_have(drift: PhysicsDynamics, generator: torch.Generator) -> None:
    theta = sample_prior(drift.model, 5, generator=generator)
    states = torch.randn(5, 2, 4, 2, generator=generator).double()
    own = torch.randn(5, 2, 4, 1, generator=generator).double()
    for actions in (own, own[0], own[0, 0]):
        mean, std = drift.predict(theta, states, actions, scratch=Buffers())
        assert mean.shape == std.shape == states.shape
        for k in range(5):
            decay, push = theta["log_decay"][k].exp(), theta["push"][k]
            a = actions.expand(5, 2, 4, 1)[k, ..., 0]
            expected = torch.stack([decay * states[k, ..., 0] + push * a, decay * states[k, ..., 1] - 0.1 * a], -1)
            torch.testing.assert_close(mean[k], expected)
            noise = drift.parameters(theta)["noise_std"][k]
            assert torch.equal(std[k], noise.expand_as(std[k]))
    noise = torch.randn(mean.shape, generator=generator).double()
    sampled = drift.sample(theta, states, own, noise, scratch=Buffers())
    torch.testing.assert_close(sampled, drift.predict(theta, states, own)[0] + std * noise)


def test_what_is_planned_with_is_what_was_fitted(
    drift: PhysicsDynamics, data: Transitions, generator: torch.Generator
) -> None:
    """The regression model, in units of std of Δs, and the dynamics say the same, density included."""
    theta = sample_prior(drift.model, 3, generator=generator)
    x, _ = drift.regression_data(data)
    mean, std = drift.predict(theta, data.state.expand(3, -1, -1), data.action)
    scale = (data.next_state - data.state).std(0, correction=0)
    fitted_mean, fitted_std = drift.model.predict(theta, x)
    torch.testing.assert_close(mean, data.state + scale * fitted_mean)
    torch.testing.assert_close(std, scale * fitted_std)
    by_hand = Normal(mean, std).log_prob(data.next_state).sum(-1)
    torch.testing.assert_close(drift.log_likelihood(theta, data), by_hand)


def test_the_same_function_in_jax(drift: PhysicsDynamics, data: Transitions) -> None:
    """For one θ, parameters without an axis or with one of length 1, as NUTS has them."""
    x, _ = drift.regression_data(data)
    theta = {"log_decay": torch.tensor([-0.3]).double(), "push": torch.tensor([0.7]).double()}
    theta["log_noise_std"] = torch.zeros(1, 2).double()
    expected = drift.model.predict(theta, x)[0][0].numpy()
    for shape in ((), (1,)):
        p: Any = {"decay": jax.numpy.full(shape, 0.740818), "push": jax.numpy.full(shape, 0.7)}
        values: Any = drift.model.function(p, jax.numpy.asarray(x.numpy()), jax.numpy)  # type: ignore[arg-type]
        assert values.shape == expected.shape
        assert abs(values - expected).max() < 1e-4 * abs(expected).max()


def test_equal_functions_are_compiled_once(data: Transitions) -> None:
    first, same = (PhysicsDynamics.fitted_to(data, toy_systems.DRIFT).model.function for _ in range(2))
    other = PhysicsDynamics.fitted_to(data[:20], toy_systems.DRIFT).model.function
    assert (first == same, hash(first) == hash(same), first == other) == (True, True, False)


def test_a_number_that_stands_still_does_not_jitter(data: Transitions) -> None:
    still = torch.tensor([1.0, 0.0])
    constant = Transitions(
        data.state * still + torch.tensor([0.0, 7.0]), data.action, data.reward,
        data.next_state * still + torch.tensor([0.0, 7.0]), data.terminated, data.episode,
    )  # fmt: skip
    drift = PhysicsDynamics.fitted_to(constant, toy_systems.DRIFT)
    noise = drift.parameters(drift.model.initial(1, generator=torch.Generator()))["noise_std"][0]
    assert float(noise[1]) < 0.02 * 7
    assert drift.regression_data(constant)[1][:, 1].abs().max() == 0


def test_mistakes_of_a_user(data: Transitions) -> None:
    def from_data(name: str | None, **more: Any) -> PhysicsDynamics:
        return PhysicsDynamics.from_data(data, system=name, **more)

    with pytest.raises(ValueError, match=r"write dynamics.system=..., pendulum \(built in\) or module:attribute"):
        from_data(None)
    with pytest.raises(ValueError, match="unknown system 'pendulun': need pendulum"):
        from_data("pendulun")
    with pytest.raises(ValueError, match="cannot load the system 'nowhere:it': ModuleNotFoundError"):
        from_data("nowhere:it")
    with pytest.raises(ValueError, match="cannot load the system 'toy_systems:GONE': AttributeError"):
        from_data("toy_systems:GONE")
    with pytest.raises(ValueError, match=r"need a .*System as 'math:pi', got a float"):
        from_data("math:pi")
    with pytest.raises(ValueError, match="physics cannot learn it: give the system 'toy_systems:WITHOUT_REWARD' a rew"):
        from_data("toy_systems:WITHOUT_REWARD", learns_reward=True)
    assert from_data("toy_systems:DRIFT", learns_reward=True).reward is toy_systems.DRIFT.reward
    with pytest.raises(ValueError, match="returns 1 numbers for a state of 2 and an action of 1 numbers: need one a"):
        from_data("toy_systems:TOO_FEW").regression_data(data)
    with pytest.raises(ValueError, match=r"fails on a state of 2 .*: ValueError: not enough values to unpack"):
        from_data("pendulum").regression_data(data)
    with pytest.raises(ValueError, match="need at least one parameter in priors"):
        PhysicsDynamics.fitted_to(data, System(toy_systems.DRIFT.step, {}))


def test_every_built_in_system_can_be_loaded() -> None:
    for name in SYSTEMS:
        system = load_system(name)
        assert system.priors.keys() <= system.units.keys()


def _builder(*overrides: str) -> Builder:
    """The environment is closed: only what is known of it is used."""
    config = resolve(["dynamics=physics", *overrides])
    with Environment(config.env) as environment:
        return Builder(config, environment)


@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_every_posterior_learns_the_parameters(name: str, data: Transitions) -> None:
    """With its own settings, but fewer steps: the truth is 0.9 and 0.3, the prior's medians are 0.7 and 0."""
    short = {"num_steps": 300, "num_warmup": 100, "num_draws": 100}
    fewer = [f"posterior.{k}={n}" for k, n in short.items() if k in settings_model("posterior", name).model_fields]
    posterior = [f"posterior={name}", *fewer, "env=" + DRIFT, "dynamics.system=toy_systems:DRIFT"]
    builder = _builder(*posterior)
    fitted, _ = builder.fit(data, None, generator=torch.Generator().manual_seed(0))
    theta = fitted.sample(200, generator=torch.Generator().manual_seed(0))
    learned = builder.dynamics(data).parameters(theta)
    assert float(learned["decay"].mean()) == pytest.approx(0.9, abs=0.05)
    assert float(learned["push"].mean()) == pytest.approx(0.3, abs=0.05)
    assert builder.agent(data, fitted).reward is toy_systems.DRIFT.reward


@pytest.mark.parametrize("posterior", ["mc-dropout", "concrete-dropout"])
def test_dropout_is_refused_before_any_episode(posterior: str) -> None:
    with pytest.raises(UserError, match=f"posterior {posterior} needs dynamics network, got physics"):
        _builder("env=" + DRIFT, f"posterior={posterior}", "dynamics.system=toy_systems:DRIFT")


def test_a_system_of_another_environment_is_refused_before_any_episode(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UserError, match=r"dynamics physics: the system's step fails on a state of 2 .*; is it of this env"
    ):
        start(tmp_path / "run", "MountainCarContinuous-v0", "dynamics=physics", "dynamics.system=pendulum")
    with pytest.raises(UserError, match="dynamics physics: the reward of this environment is not known"):
        start(tmp_path / "other", DRIFT, "dynamics=physics", "dynamics.system=toy_systems:WITHOUT_REWARD")


def test_a_run_with_a_users_own_system_draws_its_parameters(tmp_path: pathlib.Path) -> None:
    recorder = Recorder()
    start(
        tmp_path / "run", DRIFT, "dynamics=physics", "dynamics.system=toy_systems:DRIFT", "posterior.num_steps=200",
        "num_episodes=2", observer=recorder,
    )  # fmt: skip
    picture = image.imread(recorder.paths["parameters"])
    assert (picture[..., :3].min(axis=-1) < 0.9).mean() > 0.03
    with xarray.open_dataset(recorder.paths["ArviZ"], group="posterior", engine="h5netcdf") as learned:
        assert learned["decay"].shape == (1, 100)
        assert float(learned["decay"].mean()) == pytest.approx(0.9, abs=0.1)
        assert learned["noise_std"].shape == (1, 100, 2)
    assert len(json.loads(recorder.paths["evaluation"].read_text())["returns"]) == 2
