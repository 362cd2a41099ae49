"""What holds for every algorithm that acts by what it has learned, from one table: a row here for each of them."""

import dataclasses
import math
import pathlib
from typing import Any

import pytest
import torch
from kills import killed_and_resumed
from toy_runs import configure, numbers, resume, saved, start, state_numbers

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms.learner import Learner
from bayes_mbrl.build import Builder
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.registry import ALGORITHMS, POSTERIORS

DRIFT = "toy_environments:Drift-v0"

_NETWORK = ("algorithm.hidden=[8]",)
_OFF_POLICY = (*_NETWORK, "num_base_steps=1", "algorithm.batch_size=8")
_IMAGINING = (
    *_OFF_POLICY, "algorithm.updates_per_step=2", "algorithm.num_rollouts=10", "algorithm.rollout_every=4",
    "algorithm.refit_every=8", "algorithm.imagined_capacity=50",
)  # fmt: skip
TINY: dict[str, tuple[str, ...]] = {
    "policy-backprop": (*_NETWORK, "algorithm.horizon=3", "algorithm.num_gradient_steps=3", "algorithm.num_starts=2"),
    "mbpo": _IMAGINING,
    "mve": (*_OFF_POLICY, "algorithm.updates_per_step=2", "algorithm.horizon=2", "algorithm.refit_every=8"),
    "mba": _IMAGINING,
    "policy-gradient": (
        *_NETWORK, "algorithm.horizon=4", "algorithm.num_starts=3", "algorithm.num_rounds=3",
        "algorithm.num_held_out=2", "algorithm.validate_every=2", "algorithm.min_share_improved=0.0",
    ),
    "sac": _OFF_POLICY,
    "dyna": ("num_base_steps=1", "algorithm.planning_steps=4"),
}  # fmt: skip
"""Settings of a run of seconds, by name of the algorithm."""
TASKS = {"dyna": "toy_environments:Counted-v0"}
"""Where it is not Drift-v0."""
FAULTY = {"dyna": "toy_environments:FaultyCounted-v0"}
"""Where it is not Faulty-v0."""

names = pytest.mark.parametrize("name", TINY)


def _task(name: str) -> str:
    return TASKS.get(name, DRIFT)


def _learner(name: str, *more: str) -> Learner:
    with Environment(_task(name)) as environment:
        learner = Builder(configure(_task(name), f"algorithm={name}", *TINY[name], *more), environment).learner()
    assert learner is not None
    return learner


def _equal(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_every_algorithm_has_a_row() -> None:
    assert TINY.keys() == {name for name, row in ALGORITHMS.rows.items() if not row.plans}


@names
@pytest.mark.usefixtures("no_picture")
def test_a_run_that_was_stopped_and_resumed_gives_the_same_numbers(name: str, tmp_path: pathlib.Path) -> None:
    settings = (f"algorithm={name}", *TINY[name])
    whole = start(tmp_path / "whole", _task(name), *settings, "num_episodes=4")
    start(tmp_path / "stopped", _task(name), *settings, "num_episodes=2")
    resume(tmp_path / "stopped", 4)
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    assert all(math.isfinite(row["return"]) for row in whole.metrics)
    assert [row["phase"] for row in whole.metrics] == ["base policy", *[name] * 3]
    assert (whole.posterior is None) == (not ALGORITHMS.rows[name].learns_model)


@pytest.mark.slow
def test_killed_and_resumed_the_numbers_are_those_of_a_run_never_killed(tmp_path: pathlib.Path) -> None:
    """In the middle of learning, and where the checkpoint has no more than half of what was learned."""
    jobs = [
        {
            "folder": tmp_path / name, "env": _task(name), "settings": (f"algorithm={name}", *TINY[name]),
            "points": ["learning_tables" if name == "dyna" else "learning", "checkpoint_without_what_was_learned"],
            "num_times": 0,
        }
        for name in TINY
    ]  # fmt: skip
    folders = killed_and_resumed(*jobs)
    assert len(folders) == 2 * len(TINY)
    for folder in folders:
        assert numbers(folder) == numbers(folder.parent / "whole"), folder


@names
@pytest.mark.usefixtures("no_picture")
def test_it_learns_and_evaluation_learns_nothing(name: str, tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", _task(name), f"algorithm={name}", *TINY[name])
    learned = saved(tmp_path / "run").learned
    assert not _equal(learned, _learner(name).tensors())
    from bayes_mbrl.experiment import evaluate_run
    from bayes_mbrl.progress import Silent

    returns = evaluate_run(tmp_path / "run", num_episodes=2, seed=None, observer=Silent())
    assert returns == numbers(tmp_path / "run")["evaluation"]["returns"]
    assert _equal(learned, saved(tmp_path / "run").learned)


@names
def test_equal_seeds_make_equal_learners_and_tensors_bring_one_back(name: str) -> None:
    one, equal, other = _learner(name), _learner(name), _learner(name, "seed=1")
    assert _equal(one.tensors(), equal.tensors())
    other.load(one.tensors())
    assert _equal(one.tensors(), other.tensors())


@names
@pytest.mark.usefixtures("no_picture")
def test_a_dropped_episode_leaves_nothing_behind(name: str, tmp_path: pathlib.Path) -> None:
    """What was learned in an episode that the environment broke off is forgotten with it."""
    import toy_environments

    task = FAULTY.get(name, "toy_environments:Faulty-v0")
    settings = (f"algorithm={name}", *TINY[name], "num_evaluation_episodes=0", "num_episodes=2")
    toy_environments.expect_faults({})
    first = start(tmp_path / "first", task, *settings, "num_episodes=1")
    toy_environments.expect_faults({1: "raise", 2: "raise", 3: "raise"})
    with pytest.raises(UserError, match="3 episodes in a row"):
        start(tmp_path / "faulty", task, *settings)
    toy_environments.expect_faults({})
    kept = saved(tmp_path / "faulty")
    assert state_numbers(dataclasses.replace(kept, faults_in_a_row=0)) == state_numbers(first)


_POSTERIORS: dict[str, tuple[str, ...]] = {
    "exact-linear": ("dynamics=linear",),
    "nuts": (),
}
"""What a posterior needs beside its name."""


@pytest.mark.filterwarnings("ignore:.*draws diverged")
@pytest.mark.parametrize("name", [name for name in TINY if ALGORITHMS.rows[name].learns_model])
@pytest.mark.parametrize(
    "posterior",
    [pytest.param(one, marks=pytest.mark.slow if one == "nuts" else ()) for one in POSTERIORS.rows],
)
def test_each_serves_every_posterior(
    name: str, posterior: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ask for samples of θ and for nothing else."""
    monkeypatch.setattr(artefacts, "write", lambda *_: {})
    settings = (f"posterior={posterior}", *_POSTERIORS.get(posterior, ()))
    state = start(
        tmp_path / "run", "LinearGaussian-v0" if posterior == "exact-linear" else DRIFT, f"algorithm={name}",
        *TINY[name], *settings, "num_episodes=2", "num_evaluation_episodes=1",
    )  # fmt: skip
    assert state.posterior is not None
    assert all(math.isfinite(row["return"]) for row in state.metrics)
    assert not _equal(state.learned, _learner(name).tensors())
