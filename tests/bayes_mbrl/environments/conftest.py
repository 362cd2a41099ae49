"""1,000 transitions of every real environment in the table, with the policies that reach what is worth checking."""

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import RandomAgent
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.environments.specs import ENVIRONMENTS

NUM_TRANSITIONS = 1000


@dataclasses.dataclass(frozen=True)
class RealTransitions:
    """What the real environment called `spec.name` did."""

    spec: EnvironmentSpec
    state: Tensor
    """[N, S]"""
    action: Tensor
    """[N, A]"""
    next_state: Tensor
    """[N, S]"""
    reward: Tensor
    """[N]"""
    terminated: Tensor
    """[N]"""


def _pump(state: Tensor, action: Tensor) -> Tensor:
    """Push the way the car rolls, by at least a random force: it reaches the goal after about 100 steps."""
    return action.abs().clamp(min=0.7) * torch.where(state[1:] >= 0, 1.0, -1.0)


def _choose(sign: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Of three choices the first or the last, by the sign of a number of the state."""
    return lambda state, action: torch.eye(3)[2 if float(sign(state)) >= 0 else 0]


def _approach(state: Tensor, action: Tensor) -> Tensor:
    """Half at random, half straight to the goal: it slides along what is in the way."""
    return (0.7 * action + 2.0 * (state[2:] - state[:2])).clamp(-0.99, 0.99)


POLICIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MountainCarContinuous-v0": _pump,
    "MountainCar-v0": _choose(lambda state: state[1]),
    "Acrobot-v1": _choose(lambda state: -state[4]),
    "Obstacles-v0": _approach,
}
"""(state [S], random action [A]) → action [A], where random actions alone do not reach the end of an episode."""


@functools.cache
def _collect(name: str) -> RealTransitions:
    generator = torch.Generator().manual_seed(5)
    rows: list[tuple[Tensor, Tensor, Tensor, float, bool]] = []
    with Environment(name) as environment:
        base_policy = RandomAgent(environment.low, environment.high, environment.choices)
        state = environment.reset(seed=0)
        while len(rows) < NUM_TRANSITIONS:
            action, _ = base_policy.act(state, None, generator=generator)
            if len(rows) >= NUM_TRANSITIONS // 5 and name in POLICIES:
                action = POLICIES[name](state, action)
            step = environment.step(action)
            rows.append((state, action, step.next_state, step.reward, step.terminated))
            ended = step.terminated or step.truncated
            state = environment.reset(seed=len(rows)) if ended else step.next_state
    states, actions, next_states, rewards, terminated = zip(*rows, strict=True)
    return RealTransitions(
        ENVIRONMENTS[name],
        torch.stack(states),
        torch.stack(actions),
        torch.stack(next_states),
        torch.tensor(rewards),
        torch.tensor(terminated),
    )


@pytest.fixture(params=list(ENVIRONMENTS))
def real(request: pytest.FixtureRequest) -> RealTransitions:
    """Transitions of each environment in the table in turn: a new one is covered as soon as it stands there."""
    return _collect(request.param)


@pytest.fixture(params=list(KNOWN_STEPS))
def real_with_known_step(request: pytest.FixtureRequest) -> RealTransitions:
    """The same for each environment whose true step is known."""
    return _collect(request.param)
