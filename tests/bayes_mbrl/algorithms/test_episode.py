import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms import episode
from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.episode import EpisodeCutShortError, run_episode
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import EnvironmentFault, Step
from bayes_mbrl.errors import UserError


@dataclasses.dataclass
class Adder:
    """s' = s + (a, 2 a) from s = (seed, 0), the reward is a; ends as told, by step number."""

    terminates_at: int | None = None
    truncates_at: int | None = None
    fails_at: int | None = None
    max_episode_steps: int | None = None
    num_steps: int = 0
    state: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(2))

    def reset(self, *, seed: int) -> Tensor:
        self.num_steps, self.state = 0, torch.tensor([float(seed), 0.0])
        return self.state

    def step(self, action: Tensor) -> Step:
        self.num_steps += 1
        if self.num_steps == self.fails_at:
            raise EnvironmentFault(f"broke at step {self.num_steps}")
        self.state = self.state + action * torch.tensor([1.0, 2.0])
        ended = self.num_steps == self.terminates_at
        return Step(self.state, float(action[0]), ended, self.num_steps == self.truncates_at)


@dataclasses.dataclass(frozen=True)
class Constant(Agent):
    """Always the same action; its memory counts the steps of the episode."""

    action: float
    seen: list[tuple[Tensor, int | None]] = dataclasses.field(default_factory=list)

    def act(self, observation: Tensor, memory: int | None, *, generator: torch.Generator) -> tuple[Tensor, int]:
        self.seen.append((observation, memory))
        return torch.tensor([self.action]), (memory or 0) + 1


def run(environment: Any, agent: Agent, **settings: Any) -> episode.Episode:
    return run_episode(
        environment, agent, **{"number": 7, "seed": 5, "generator": torch.Generator().manual_seed(0), **settings}
    )


def test_transitions_chain_from_the_reset_on() -> None:
    agent = Constant(0.5)
    got = run(Adder(truncates_at=4), agent)
    data = got.transitions
    assert data.state[0].tolist() == [5.0, 0.0]
    assert torch.equal(data.state[1:], data.next_state[:-1])
    assert data.next_state[-1].tolist() == [7.0, 4.0]
    assert data.action.tolist() == [[0.5]] * 4
    assert data.reward.tolist() == [0.5] * 4
    assert data.episode.tolist() == [7] * 4
    assert got.total_reward == 2.0
    assert torch.equal(torch.stack([state for state, _ in agent.seen]), data.state)


def test_memory_is_none_at_first_and_then_handed_on() -> None:
    agent = Constant(0.5)
    for _ in range(2):
        run(Adder(truncates_at=3), agent)
    assert [memory for _, memory in agent.seen] == [None, 1, 2] * 2


@pytest.mark.parametrize(
    ("ends", "terminated"),
    [
        ({"terminates_at": 3}, [False, False, True]),
        ({"truncates_at": 3}, [False, False, False]),
        ({"terminates_at": 3, "truncates_at": 3}, [False, False, True]),
    ],
)
def test_truncation_is_not_termination(ends: dict[str, int], terminated: list[bool]) -> None:
    assert run(Adder(**ends), Constant(1.0)).transitions.terminated.tolist() == terminated


@pytest.mark.parametrize("ends", ["terminates_at", "truncates_at"])
def test_what_comes_after_a_step_comes_after_the_last_one_too(ends: str) -> None:
    lengths = []

    def after_step(steps: Sequence[Transitions]) -> None:
        lengths.append(len(steps))

    run(Adder(**{ends: 3}), Constant(1.0), after_step=after_step)
    assert lengths == [1, 2, 3]


def test_another_agent_goes_on_from_the_same_state_and_memory() -> None:
    second = Constant(-1.0)

    def after_step(steps: Sequence[Transitions]) -> Agent | None:
        return second if len(steps) == 2 else None

    data = run(Adder(truncates_at=5), Constant(1.0), after_step=after_step).transitions
    assert data.action.flatten().tolist() == [1, 1, -1, -1, -1]
    assert torch.equal(data.state[1:], data.next_state[:-1])
    assert second.seen[0][1] == 2


def test_a_fault_ends_the_episode_as_an_error() -> None:
    with pytest.raises(EnvironmentFault, match="broke at step 2"):
        run(Adder(fails_at=2), Constant(1.0))


def test_without_any_time_limit_an_episode_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode, "MAX_STEPS_WITHOUT_LIMIT", 6)
    data = run(Adder(), Constant(1.0)).transitions
    assert len(data) == 6
    assert not data.terminated.any()
    assert len(run(Adder(max_episode_steps=9, truncates_at=9), Constant(1.0)).transitions) == 9


def test_where_learning_fails_the_steps_so_far_are_at_hand() -> None:
    def after_step(steps: Sequence[Transitions]) -> None:
        if len(steps) == 2:
            raise UserError("lower the learning rate")

    with pytest.raises(UserError, match=r"^lower the learning rate$") as caught:
        run(Adder(terminates_at=3), Constant(1.0), after_step=after_step)
    assert isinstance(caught.value, EpisodeCutShortError)
    data = caught.value.episode.transitions
    assert data.terminated.tolist() == [False, False]
    assert torch.equal(data.state[1:], data.next_state[:-1])
