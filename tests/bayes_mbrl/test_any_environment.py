"""From the first step to what a run leaves behind, in environments of every kind, at a budget that teaches little."""

import math
import pathlib

import pytest
import torch
from toy_runs import Recorder, saved, start

from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.specs import ENVIRONMENTS

HASTE = (
    "num_episodes=2", "num_evaluation_episodes=0", "planner.horizon=2", "planner.num_candidates=4",
    "planner.num_iterations=1", "algorithm.replan_every=1", "rollout.num_theta=2", "posterior.num_steps=10",
    "dynamics.hidden=[4]",
)  # fmt: skip
QUICK = ("CartPole-v1", "InvertedDoublePendulum-v5")
KNOWN = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ENVIRONMENTS]


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_environment_is_learned_and_acted_in(name: str, tmp_path: pathlib.Path) -> None:
    """What is known of it agrees with its first data, so nobody is warned."""
    seen = Recorder()
    elites = () if "Gaussian" in name else ("planner.num_elites=2",)
    state = start(tmp_path / "run", name, *HASTE, *elites, "planner=cem", observer=seen)
    assert [row["phase"] for row in state.metrics] == ["base policy", "mpc"]
    assert all(math.isfinite(row["return"]) for row in state.metrics)
    assert seen.warnings == []
    assert state.transitions is not None
    with Environment(name) as environment:
        assert state.transitions.state.shape[1] == environment.state_dim
        assert state.transitions.action.shape[1] == environment.action_dim


@pytest.mark.parametrize("name", ["Choices", "ManyChoices", "Whole"])
def test_nothing_is_known_and_spaces_are_of_other_kinds(name: str, tmp_path: pathlib.Path) -> None:
    env = f"toy_environments:{name}-v0"
    start(tmp_path / "run", env, *HASTE, "planner.num_elites=2")
    state = saved(tmp_path / "run")
    assert state.transitions is not None
    assert state.posterior is not None
    with Environment(env) as environment:
        assert state.transitions.state.shape == (12, environment.state_dim)
        assert state.transitions.action.shape == (12, environment.action_dim)
    action = state.transitions.action
    if name == "Whole":
        assert bool((action >= torch.tensor([-2.0, 0.0])).all() & (action <= torch.tensor([2.0, 3.0])).all())
        assert torch.equal(state.transitions.state[0], state.transitions.state[0].round())
    else:
        assert bool(((action == 0) | (action == 1)).all())


def test_coloured_choices(tmp_path: pathlib.Path) -> None:
    state = start(
        tmp_path / "run", "toy_environments:ManyChoices-v0", "planner=icem", "planner.num_candidates=6",
        "planner.colour=2.0", "num_episodes=2", "num_evaluation_episodes=0",
    )  # fmt: skip
    assert math.isfinite(state.metrics[-1]["return"])
