"""System identification: dynamics written from physics, of which a few parameters with names and units are unknown.

Source: lecture, "works well in classical robotics": fit just a few parameters of a dynamics written from physics.
Axes: K parameter samples, N data, S state, A action; see base.py.
"""

import dataclasses
import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import LogNormal, Normal

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics, RewardFunction, TerminationFunction
from bayes_mbrl.dynamics.standardise import Standardiser, negligible_std
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.likelihoods import LikelihoodName
from bayes_mbrl.inference.parametric import DerivedFunction, ParametricRegression
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch

StepFunction = Callable[[Mapping[str, Any], Sequence[Any], Sequence[Any], ModuleType], Sequence[Any]]
"""(parameters by name, the S numbers of a state, the A of an action, the array library) → the S of the next state.

Each number is an array over all states at once, with which the parameters broadcast. The library is torch, or
jax.numpy under NUTS: use what both have, as in `lib.sin(angle)` or `lib.clip(torque, -2.0, 2.0)`.
"""

SYSTEMS: Mapping[str, str] = {"pendulum": "bayes_mbrl.dynamics.pendulum:PENDULUM"}
"""Built in, by name: "module:attribute" of the `System`."""


@dataclasses.dataclass(frozen=True)
class System:
    """What is known of a system, and what is not: all that a user writes for one of their own."""

    step: StepFunction
    """One time step of the environment, without noise."""
    priors: Mapping[str, Normal | LogNormal]
    """Of the unknown parameters, in their units: `lognormal_prior(1.0, 2.0)` is "positive, about 1, within ×/÷ 2"."""
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of parameters and derived quantities, for pictures: {"mass": "kg"}."""
    derived: DerivedFunction | None = None
    """More quantities, made of the parameters, to be reported; see `ParametricRegression`."""
    truth: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Where it is a simulation, the true values, to be drawn beside the posterior. No fit sees them."""
    reward: RewardFunction | None = None
    """(state [..., S], action [..., A], next_state [..., S]) → [...]; needed where the environment's is not known."""
    termination: TerminationFunction | None = None
    """Likewise → bool [...]; None: no episode ends but by its time limit."""


class PhysicsDynamics(Dynamics):
    """s' = step(parameters, s, a) + std · ε, std learned, one number a dimension.

    The regression is from the raw (s, a) to Δs, divided by the std of Δs in the data: the priors stay in physical
    units, and the noise and every error are in the units that a network's are. Reward and termination cannot be
    learned: physics says nothing about them.
    """

    def __init__(
        self,
        system: System,
        *,
        scale: Sequence[float],
        action_dim: int,
        noise_std: float = 0.05,
        noise_log_std: float = 1.0,
        min_std: float = 0.01,
        likelihood: LikelihoodName = "normal",
        degrees_of_freedom: float = 4.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """scale [S] is the unit in which Δs is regressed, and the noise's: see `ParametricRegression`."""
        self.system = system
        self.state_dim = self.output_dim = len(scale)
        self.reward = system.reward
        self.termination = system.termination
        self._scale = torch.tensor(scale, dtype=dtype, device=device)
        self.model: ParametricRegression = ParametricRegression(
            _ScaledChange(system.step, tuple(scale)),
            system.priors,
            derived=system.derived,
            input_dim=len(scale) + action_dim,
            output_dim=len(scale),
            noise_std=noise_std,
            noise_log_std=noise_log_std,
            min_std=min_std,
            likelihood=likelihood,
            degrees_of_freedom=degrees_of_freedom,
            dtype=dtype,
            device=device,
        )
        self.likelihood = self.model.likelihood

    @classmethod
    def from_data(
        cls,
        transitions: Transitions,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        learns_reward: bool = False,
        learns_termination: bool = False,
        system: str | None = None,
        noise_std: float = 0.05,
        noise_log_std: float = 1.0,
        min_std: float = 0.01,
        likelihood: LikelihoodName = "normal",
        degrees_of_freedom: float = 4.0,
    ) -> Self:
        """The dynamics of a system by its name in `SYSTEMS` or as "module:attribute"; see `fitted_to`.

        `features`, what a network wants to see, are not used. A termination would have to be the system's: without
        one no episode ends, `learns_termination` or not. Raises ValueError when there is no such system, or when a
        reward would have to be learned.
        """
        known = load_system(system)
        if learns_reward and known.reward is None:
            raise ValueError(
                f"the reward of this environment is not known and physics cannot learn it: give the system {system!r} "
                "a reward=..., a function (state [..., S], action [..., A], next_state [..., S]) → [...]"
            )
        return cls.fitted_to(
            transitions,
            known,
            noise_std=noise_std,
            noise_log_std=noise_log_std,
            min_std=min_std,
            likelihood=likelihood,
            degrees_of_freedom=degrees_of_freedom,
        )

    @classmethod
    def fitted_to(cls, transitions: Transitions, system: System, **settings: Any) -> Self:
        """The system, nothing of it learned yet, with the std of Δs in these transitions as its `scale`."""
        change = transitions.next_state - transitions.state
        scale = Standardiser.fitted(change, constant_std=negligible_std(transitions.state)).std
        return cls(
            system,
            scale=scale.tolist(),
            action_dim=transitions.action.shape[-1],
            dtype=change.dtype,
            device=change.device,
            **settings,
        )

    def regression_data(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """x: (s, a) as they are [N, S + A]; y: Δs / scale [N, S].

        Raises ValueError when the system is not one of such states and actions.
        """
        x = torch.cat([transitions.state, transitions.action], -1)
        self._check_step(x[:1])
        return x, (transitions.next_state - transitions.state) / self._scale

    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Dynamics.predict`; `scratch` is not used, since `step` is the user's."""
        axes = (-1, *[1] * (states.ndim - 2))
        known = self.model.physical(theta)
        noise_std = known.pop("noise_std") * self._scale
        parameters = {name: known[name].view(axes) for name in self.model.priors}
        actions = actions.expand(*states.shape[:-1], -1)
        columns = self.system.step(parameters, _columns(states), _columns(actions), torch)
        mean = torch.stack([column.expand(states.shape[:-1]) for column in columns], -1)
        return mean, noise_std.view(*axes, self.state_dim).expand(states.shape)

    def log_likelihood(self, theta: Mapping[str, Tensor], transitions: Transitions) -> Tensor:
        """See `Dynamics.log_likelihood`."""
        return self.model.log_likelihood(theta, *self.regression_data(transitions)) - torch.log(self._scale).sum()

    def parameters(self, theta: Mapping[str, Tensor]) -> Theta:
        """Parameters, derived quantities and `noise_std` [K, S], all in their units."""
        known = self.model.physical(theta)
        return {**known, "noise_std": known["noise_std"] * self._scale}

    def _check_step(self, x: Tensor) -> None:
        """Try the user's function where its mistakes are easier to read than in the middle of a fit."""
        theta = {name: prior.mean.unsqueeze(0) for name, prior in self.model.prior().items()}
        dims = f"a state of {self.state_dim} and an action of {x.shape[-1] - self.state_dim} numbers"
        try:
            columns = len(self.system.step(self._medians(theta), _columns(x[:, : self.state_dim]),
                                           _columns(x[:, self.state_dim :]), torch))  # fmt: skip
        except Exception as error:  # a user's function may raise anything
            raise ValueError(
                f"the system's step fails on {dims}: {type(error).__name__}: {error}; is it of this environment?"
            ) from error
        if columns != self.state_dim:
            raise ValueError(f"the system's step returns {columns} numbers for {dims}: need one a number of the state")

    def _medians(self, theta: Mapping[str, Tensor]) -> Theta:
        known = self.model.physical(theta)
        return {name: known[name] for name in self.model.priors}


def load_system(name: str | None) -> System:
    """The system of this name, built in or "module:attribute".

    Raises ValueError when there is none, its module cannot be imported, or it is no `System`.
    """
    known = f"{', '.join(SYSTEMS)} (built in) or module:attribute, a System of your own"
    if name is None:
        raise ValueError(f"no system is known for this environment: write dynamics.system=..., {known}")
    target = SYSTEMS.get(name, name)
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"unknown system {name!r}: need {known}")
    try:
        system = operator.attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:  # a module from elsewhere may raise anything
        raise ValueError(f"cannot load the system {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(system, System):
        raise ValueError(f"need a bayes_mbrl.dynamics.physics.System as {name!r}, got a {type(system).__name__}")
    return system


def _columns(values: Tensor) -> tuple[Tensor, ...]:
    """[..., D] → D tensors [...]; contiguous, since atan2 takes twenty times as long on others."""
    return tuple(column.contiguous() for column in values.unbind(-1))


@dataclasses.dataclass(frozen=True)
class _ScaledChange:
    """(parameters, x = (s, a) [..., N, S + A], library) → (step − s) / scale [..., N, S]: a `MeanFunction`.

    Equal ones are the same function, so that what NUTS compiled for one serves the other.
    """

    step: StepFunction
    scale: tuple[float, ...]

    def __call__(self, p: Mapping[str, Any], x: Any, lib: ModuleType) -> Any:
        shape = lib.broadcast_shapes(x.shape[:-1], *(value.shape for value in p.values()))
        columns = [lib.broadcast_to(x[..., d], shape) for d in range(x.shape[-1])]
        state, action = columns[: len(self.scale)], columns[len(self.scale) :]
        following = self.step(p, state, action, lib)
        change = [(after - before) / unit for before, after, unit in zip(state, following, self.scale, strict=True)]
        return lib.stack(change, -1)
