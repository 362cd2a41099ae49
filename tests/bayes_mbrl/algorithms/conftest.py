"""A planner that does not search, to see what an agent makes of a planner; runs without pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.planners.base import Planner
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.planners.propagation import ts_infinity


@dataclasses.dataclass(frozen=True)
class Ramp:
    """The plan start, start + 1, …: each shift moves the start on by one."""

    start: float
    horizon: int

    @property
    def plan(self) -> Tensor:
        return (self.start + torch.arange(float(self.horizon)))[:, None]


@dataclasses.dataclass(frozen=True)
class RampPlanner(Planner[Ramp]):
    """Adds 100 to the start in every search, and remembers from which start it was asked."""

    low: Tensor
    high: Tensor
    horizon: int = 4
    num_iterations: int = 1
    asked: list[float] = dataclasses.field(default_factory=list)

    def init(self) -> Ramp:
        return Ramp(0.0, self.horizon)

    def ask(self, state: Ramp, *, generator: torch.Generator) -> Tensor:
        self.asked.append(state.start)
        return state.plan[None]

    def tell(self, state: Ramp, plans: Tensor, scores: Tensor) -> Ramp:
        return dataclasses.replace(state, start=state.start + 100)

    def shift(self, state: Ramp) -> Ramp:
        return dataclasses.replace(state, start=state.start + 1)


@pytest.fixture
def ramp_planner() -> RampPlanner:
    return RampPlanner(torch.tensor([-1e3]), torch.tensor([1e3]))


@pytest.fixture
def oracle() -> Callable[..., MPCAgent]:
    """An agent that plans on the true dynamics of an environment; keywords are the agent's."""

    def agent(environment: str, planner: Planner[Any], **settings: Any) -> MPCAgent:
        spec, step = ENVIRONMENTS[environment], KNOWN_STEPS[environment]
        state_dim = {"Pendulum-v1": 3, "LinearGaussian-v0": 3}[environment]
        assert spec.reward is not None
        return MPCAgent(
            **{
                "posterior": Nothing(),
                "dynamics": KnownDynamics(step, noise_std=torch.zeros(state_dim)),
                "planner": planner,
                "objective": expected_return(),
                "propagation": ts_infinity,
                "reward": spec.reward,
                "termination": spec.termination,
                "num_theta": 1,
                "num_noise": 1,
                **settings,
            }
        )

    return agent


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the pictures and the ArviZ file."""
    for name in ("run_figure", "curve_figure"):
        monkeypatch.setattr(artefacts, name, lambda *_, **__: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))
