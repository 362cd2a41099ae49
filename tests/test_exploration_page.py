"""The programs of docs/exploration.md run; what it claims, on small versions of its two tasks."""

import importlib.util
import pathlib
import re
import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from toy_runs import Recorder

from bayes_mbrl import artefacts, experiment
from bayes_mbrl.config import resolve
from bayes_mbrl.run_folder import new_run_folder

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "exploration.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"<!-- run by tests/test_exploration_page.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)


class HiddenReward(gymnasium.Env[np.ndarray, np.ndarray]):
    """x' = x + 0.1 a from 0; the reward is at 1.5, and moving costs a little. What is random stays near 0."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.x = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([self.x], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x += 0.1 * float(action[0])
        reward = np.exp(-(((self.x - 1.5) / 0.2) ** 2)) - 0.02 * float(action[0]) ** 2
        return np.array([self.x], np.float32), float(reward), False, False, {}


gymnasium.register("HiddenReward-v0", HiddenReward, max_episode_steps=30)


def benchmark(name: str) -> ModuleType:
    """benchmarks/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_run(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(program, {})
    assert capsys.readouterr().out


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.slow
def test_information_finds_a_reward_that_nobody_has_seen_and_greedy_planning_does_not(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, farthest = {}, {}
    for exploration in ("none", "information-gain"):
        config = resolve(
            [
                "env=HiddenReward-v0", f"algorithm.exploration={exploration}", "num_episodes=4",
                "num_evaluation_episodes=1", "posterior=ensemble", "posterior.resample=false",
                "posterior.num_steps=400", "dynamics.hidden=[24]", "planner=icem", "planner.horizon=20",
                "planner.colour=2", "planner.num_candidates=40", "planner.num_iterations=2",
                "planner.num_elites=6", "algorithm.replan_every=5",
            ]
        )  # fmt: skip
        recorder = Recorder()
        monkeypatch.setattr(artefacts, "write", lambda *_: {})
        state = experiment.run_experiment(config, new_run_folder(tmp_path / exploration, config), observer=recorder)
        assert state.transitions is not None
        farthest[exploration] = float(state.transitions.next_state.max())
        evaluated[exploration] = float(str(recorder.summary["evaluation return"]))
    assert farthest["none"] < 1.0
    assert farthest["information-gain"] > 1.3
    assert evaluated["none"] < 0.1
    assert evaluated["information-gain"] > 1.0


@pytest.mark.slow
def test_fear_of_noise_fear_of_ignorance_and_neither_take_three_ways() -> None:
    torch.set_num_threads(1)
    objectives = ["mean", "mean-minus-epistemic-std", "mean-minus-total-std"]
    tallies = benchmark("risk").tally(objectives, num_seeds=1, num_data=3000, num_episodes=1)
    assert [set(tallies["learned", name].ways) for name in objectives] == [{"south"}, {"middle"}, {"north"}]
    assert [set(tallies["truth", name].ways) for name in objectives] == [{"middle"}, {"middle"}, {"north"}]
    ((neutral,),), ((pessimistic,),) = (tallies["learned", name].returns for name in objectives[:2])
    assert pessimistic > neutral + 0.5
    assert tallies["learned", "mean"].promises[0] > neutral + 0.5
