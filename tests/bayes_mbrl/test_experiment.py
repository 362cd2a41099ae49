"""Whole runs with tiny budgets: what decides their numbers, what stops them, and what is left then."""

import json
import math
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import toy_environments
import typer.testing
from kills import POINTS, killed_and_resumed
from toy_runs import (
    Recorder,
    configure,
    numbers,
    overrides,
    resume,
    saved,
    start,
    state_numbers,
)

from bayes_mbrl import artefacts, cli, experiment, learning
from bayes_mbrl.build import Builder
from bayes_mbrl.checkpoint import has_checkpoint, load_checkpoint
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.registry import SECTIONS, posterior_kinds

DRIFT, FAULTY = "toy_environments:Drift-v0", "toy_environments:Faulty-v0"
COMMAND = pathlib.Path(sys.executable).with_name("bayes-mbrl")
SUPPORT = pathlib.Path(toy_environments.__file__).parent


@pytest.fixture
def no_artefacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what is drawn and written at the end, most of the time of a tiny run."""
    monkeypatch.setattr(artefacts, "write", lambda *_: {})


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the picture and the ArviZ file alone."""
    monkeypatch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))


@pytest.fixture
def faults() -> Iterator[Callable[[dict[int, str]], None]]:
    """`faults({2: "nan"})` makes the third episode of Faulty-v0 from now on go wrong."""
    yield toy_environments.expect_faults
    toy_environments.expect_faults({})


def _metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _command(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


# One seed


@pytest.mark.usefixtures("no_picture")
def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path: pathlib.Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        start(tmp_path / name, DRIFT, f"seed={seed}")
    a, b, c = (numbers(tmp_path / name) for name in "abc")
    assert a == b
    for part in ("checkpoint", "metrics", "evaluation", "transitions", "posterior"):
        assert a[part] != c[part]


@pytest.mark.usefixtures("no_artefacts")
def test_the_number_of_plans_changes_no_start_state(tmp_path: pathlib.Path) -> None:
    starts = []
    for count in (6, 9):
        state = start(tmp_path / str(count), DRIFT, f"planner.num_candidates={count}")
        assert state.transitions is not None
        starts.append(torch.stack([state.transitions.state[state.transitions.episode == e][0] for e in range(3)]))
    assert torch.equal(*starts)
    assert len(starts[0].unique(dim=0)) == 3


@pytest.mark.usefixtures("no_artefacts")
def test_the_numbers_add_up(tmp_path: pathlib.Path) -> None:
    recorder = Recorder()
    state = start(tmp_path / "run", "LinearGaussian-v0", observer=recorder)
    assert state.transitions is not None
    assert [metrics["num_transitions"] for metrics in state.metrics] == [50, 100, 150]
    assert [metrics["phase"] for metrics in state.metrics] == ["base policy", "mpc", "mpc"]
    for metrics in state.metrics:
        rewards = state.transitions.reward[state.transitions.episode == metrics["episode"]]
        assert math.isclose(metrics["return"], float(rewards.double().sum()), rel_tol=1e-9)
        assert math.isfinite(metrics["loss"])
        assert metrics["planning_seconds_per_step"] > 0
    assert state.metrics[0]["held_out_rmse"] is None
    assert all(0 < metrics["held_out_rmse"] < 10 for metrics in state.metrics[1:])
    assert recorder.episodes == _metrics(tmp_path / "run") == state.metrics
    assert recorder.phases == ["acting", "fitting"] * 3 + ["evaluating"]
    assert state.num_fitted == 150


@pytest.mark.usefixtures("no_artefacts")
def test_the_base_policy_covers_the_actions(tmp_path: pathlib.Path) -> None:
    state = start(tmp_path / "run", "LinearGaussian-v0", "num_episodes=1")
    assert state.transitions is not None
    assert len(state.transitions) == 50
    for column, low, high in ((0, -2.0, 2.0), (1, -1.0, 1.5)):
        action = state.transitions.action[:, column]
        assert low <= float(action.min()) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < float(action.max()) <= high


# Limits, refits and replans


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize(("num_steps", "num_episodes"), [(1, 1), (6, 1), (7, 2), (12, 2), (1000, 3)])
def test_no_episode_starts_after_num_steps(tmp_path: pathlib.Path, num_steps: int, num_episodes: int) -> None:
    state = start(tmp_path / "run", DRIFT, f"num_steps={num_steps}")
    assert state.next_episode == num_episodes
    assert state.transitions is not None
    assert len(state.transitions) == 6 * num_episodes


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize(("every", "fits"), [(1, [6, *range(7, 19)]), (4, [6, 8, 12, 16]), (6, [6, 12, 18]), (50, [6])])
def test_refits_within_episodes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, every: int, fits: list[int]
) -> None:
    fitted_on: list[int] = []
    fit = experiment.Builder.fit

    def recorded(self: Any, transitions: Transitions, *args: Any, **kwargs: Any) -> Any:
        fitted_on.append(len(transitions))
        return fit(self, transitions, *args, **kwargs)

    monkeypatch.setattr(experiment.Builder, "fit", recorded)
    state = start(tmp_path / "run", DRIFT, f"algorithm.refit_every={every}")
    assert fitted_on == fits
    assert state.num_fitted == fits[-1]
    assert state.transitions is not None
    assert len(state.transitions) == 18
    assert [m["loss"] is None for m in state.metrics] == [False, every == 50, every == 50]


@pytest.mark.usefixtures("no_artefacts")
def test_a_posterior_is_used_in_the_units_it_was_learned_in(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standardised on the transitions that it was fitted to, not on those that came later."""
    units: list[int] = []
    dynamics = experiment.Builder.dynamics

    def recorded(self: Any, transitions: Transitions) -> Any:
        units.append(len(transitions))
        return dynamics(self, transitions)

    monkeypatch.setattr(experiment.Builder, "dynamics", recorded)
    start(tmp_path / "run", DRIFT, "algorithm.refit_every=4")
    resume(tmp_path / "run")
    experiment.evaluate_run(tmp_path / "run", num_episodes=1, seed=None, observer=Recorder())
    assert set(units) == {6, 8, 12, 16}
    assert units[-2:] == [16, 16]


@pytest.mark.usefixtures("no_artefacts")
def test_a_refit_is_due_at_the_step_that_terminates_an_episode_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted_on: list[int] = []
    fit = experiment.Builder.fit

    def recorded(self: Any, transitions: Transitions, *args: Any, **kwargs: Any) -> Any:
        fitted_on.append(len(transitions))
        return fit(self, transitions, *args, **kwargs)

    monkeypatch.setattr(experiment.Builder, "fit", recorded)
    start(tmp_path / "run", "toy_environments:Single-v0", "algorithm.refit_every=1", "num_episodes=4")
    assert fitted_on == [1, 2, 3, 4]


@pytest.mark.usefixtures("no_artefacts")
def test_a_plan_is_followed_until_it_is_time_to_plan_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayes_mbrl.algorithms import mpc

    searches = 0
    search = mpc.search

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal searches
        searches += 1
        return search(*args, **kwargs)

    monkeypatch.setattr(mpc, "search", counted)
    start(tmp_path / "run", DRIFT, "algorithm.replan_every=4", "planner.horizon=4", "num_evaluation_episodes=0")
    assert searches == 2 * 2  # steps 0 and 4 of two planned episodes


# Killed and resumed


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("more", [(), ("algorithm.refit_every=4",), ("posterior=ensemble",)])
def test_more_episodes_equal_a_longer_run(tmp_path: pathlib.Path, more: tuple[str, ...]) -> None:
    start(tmp_path / "long", DRIFT, "num_episodes=4", *more)
    start(tmp_path / "short", DRIFT, "num_episodes=2", *more)
    before = _metrics(tmp_path / "short")
    resume(tmp_path / "short", 4)
    assert numbers(tmp_path / "short") == numbers(tmp_path / "long")
    assert _metrics(tmp_path / "short")[:2] == before


@pytest.mark.usefixtures("no_artefacts")
def test_more_episodes_are_recorded_and_what_is_done_is_not_undone(tmp_path: pathlib.Path) -> None:
    start(tmp_path, DRIFT, "num_episodes=2")
    command = "command: bayes-mbrl run 'to remember'"
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub(r"^command:.*$", command, text, flags=re.MULTILINE))
    resume(tmp_path, 3)
    assert "num_episodes: 3" in (tmp_path / "config.yaml").read_text().splitlines()
    assert command in (tmp_path / "config.yaml").read_text()
    state = resume(tmp_path, 1)
    assert state.next_episode == 3
    assert "num_episodes: 3" in (tmp_path / "config.yaml").read_text().splitlines()


@pytest.mark.usefixtures("no_artefacts")
def test_a_run_that_never_got_to_a_checkpoint_starts_again(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "whole", DRIFT)
    (tmp_path / "begun").mkdir()
    shutil.copy(tmp_path / "whole" / "config.yaml", tmp_path / "begun")
    assert state_numbers(resume(tmp_path / "begun")) == state_numbers(saved(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("more", [("posterior=mean-field",), ("posterior=ensemble", "algorithm.refit_every=4")])
def test_killed_at_any_point_and_resumed_the_numbers_are_those_of_a_run_never_killed(
    tmp_path: pathlib.Path, more: tuple[str, ...]
) -> None:
    points = [
        name for name in POINTS if name not in ("learning", "learning_tables", "checkpoint_without_what_was_learned")
    ]
    job = {"folder": tmp_path, "env": DRIFT, "settings": more, "points": points, "num_times": 3}
    names = [folder.name for folder in killed_and_resumed(job)]
    assert len(names) == 12
    expected = numbers(tmp_path / "whole")
    for name in names:
        assert numbers(tmp_path / name) == expected, name
        assert [line["episode"] for line in _metrics(tmp_path / name)] == [0, 1, 2], name


@pytest.mark.usefixtures("no_artefacts")
def test_ends_that_are_learned_after_a_resume_are_those_of_a_run_never_stopped(tmp_path: pathlib.Path) -> None:
    """The first fit of this seed has seen ends, which the model is made with anew from the data."""
    whole = start(tmp_path / "whole", "toy_environments:Short-v0")
    start(tmp_path / "part", "toy_environments:Short-v0", "num_episodes=1")
    assert whole.transitions is not None
    assert bool(whole.transitions.terminated.any())
    assert state_numbers(resume(tmp_path / "part", episodes=3)) == state_numbers(saved(tmp_path / "whole"))
    with Environment("toy_environments:Short-v0") as environment:
        builder = experiment.Builder(configure("toy_environments:Short-v0"), environment)
        agent = builder.agent(*experiment.fitted(whole))
    assert agent.termination is not None
    assert (agent.dynamics.state_dim, agent.dynamics.output_dim) == (2, 4)


@pytest.mark.usefixtures("no_artefacts")
def test_killed_between_two_faults_and_resumed_the_numbers_are_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, faults: Callable[[dict[int, str]], None]
) -> None:
    faults({1: "nan", 2: "nan"})
    start(tmp_path / "whole", FAULTY)
    faults({1: "nan", 2: "nan"})
    save, saves = experiment.save_checkpoint, 0

    def killed(*args: Any) -> None:
        nonlocal saves
        save(*args)
        saves += 1
        if saves == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "killed", FAULTY)
    assert saved(tmp_path / "killed").faults_in_a_row == 1
    assert state_numbers(resume(tmp_path / "killed")) == state_numbers(saved(tmp_path / "whole"))


# The base phase


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize(("num_base_steps", "num_base"), [(0, 1), (6, 1), (7, 2), (13, 3)])
def test_episodes_are_the_base_policys_until_there_are_so_many_steps(
    tmp_path: pathlib.Path, num_base_steps: int, num_base: int
) -> None:
    """Of 6 steps each; the first fit comes with the last of them. Without a posterior nobody else can act."""
    observer = Recorder()
    state = start(
        tmp_path / "run", DRIFT, f"num_base_steps={num_base_steps}", "num_episodes=4", "num_evaluation_episodes=0",
        observer=observer,
    )  # fmt: skip
    assert [row["phase"] for row in state.metrics] == ["base policy"] * num_base + ["mpc"] * (4 - num_base)
    assert [row["num_fitted"] for row in state.metrics] == [0] * (num_base - 1) + [6 * n for n in range(num_base, 5)]
    assert observer.phases.count("fitting") == 5 - num_base


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("limit", ["num_episodes=2", "num_steps=9"])
def test_a_run_that_ends_before_its_base_phase_fits_once_at_its_end(tmp_path: pathlib.Path, limit: str) -> None:
    settings = ("num_base_steps=100", limit)
    observer = Recorder()
    state = start(tmp_path / "run", DRIFT, *settings, observer=observer)
    assert [row["phase"] for row in state.metrics] == ["base policy"] * 2
    assert [row["num_fitted"] for row in state.metrics] == [0, 0]
    assert observer.phases == ["acting", "acting", "fitting", "evaluating"]
    assert state.posterior is not None
    assert state.num_fitted == 12
    assert saved(tmp_path / "run").num_fitted == 12
    assert len(numbers(tmp_path / "run")["evaluation"]["returns"]) == 2


@pytest.mark.usefixtures("no_picture")
def test_a_fit_that_fails_at_the_end_of_the_base_phase_is_made_up_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("num_base_steps=100", "num_episodes=2")

    def fails(*_: Any, **__: Any) -> Any:
        raise UserError("posterior mean-field: diverged")

    with monkeypatch.context() as patch:
        patch.setattr(Builder, "fit", fails)
        with pytest.raises(UserError, match=r"diverged; the data are kept: change that in .* then bayes-mbrl resume"):
            start(tmp_path / "run", DRIFT, *settings)
    assert len(saved(tmp_path / "run").metrics) == 2
    resume(tmp_path / "run")
    start(tmp_path / "whole", DRIFT, *settings)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("more", [(), ("algorithm=sac", "algorithm.hidden=[4]", "algorithm.batch_size=4")])
def test_stopped_in_the_base_phase_and_resumed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    settings = ("num_base_steps=8", "num_episodes=3", *more)
    start(tmp_path / "whole", DRIFT, *settings)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment.MetricsLog, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "part", DRIFT, *settings)
    assert [row["phase"] for row in saved(tmp_path / "part").metrics] == ["base policy"]
    resume(tmp_path / "part")
    assert numbers(tmp_path / "part") == numbers(tmp_path / "whole")


@pytest.mark.usefixtures("no_artefacts")
def test_what_is_said_of_the_environment_is_held_against_the_first_data_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "compare_with_data", lambda spec, data: [f"{len(data)} rows of {spec.name} are odd"])
    observer, later = Recorder(), Recorder()
    start(tmp_path / "run", DRIFT, "num_base_steps=8", observer=observer)
    resume(tmp_path / "run", episodes=4, observer=later)
    assert (observer.warnings, later.warnings) == (["6 rows of Drift-v0 are odd"], [])


# An environment that fails


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "an observation that is not finite"),
        ("inf", "an observation that is not finite"),
        ("reward", "a reward that is not finite: inf"),
        ("raise", "raised RuntimeError: the simulator is unstable"),
    ],
)
def test_a_faulty_episode_is_dropped_and_the_data_are_kept(
    tmp_path: pathlib.Path, faults: Callable[[dict[int, str]], None], kind: str, message: str
) -> None:
    faults({1: kind})
    recorder = Recorder()
    state = start(tmp_path / "run", FAULTY, observer=recorder)
    (warning,) = recorder.warnings
    assert message in warning
    assert "step 3" in warning
    assert "dropped" in warning
    assert state.transitions is not None
    assert state.transitions.episode.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert [line["episode"] for line in _metrics(tmp_path / "run")] == [0, 1, 2]
    assert state.faults_in_a_row == 0


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize("first", [0, 1])
def test_three_faults_in_a_row_stop_the_run_which_goes_on_after_mending(
    tmp_path: pathlib.Path, faults: Callable[[dict[int, str]], None], first: int
) -> None:
    faults(dict.fromkeys(range(first, first + 3), "nan"))
    recorder = Recorder()
    with pytest.raises(UserError, match=r"failed in 3 episodes in a row; .*bayes-mbrl resume") as caught:
        start(tmp_path / "run", FAULTY, observer=recorder)
    assert "\n" not in str(caught.value)
    assert len(recorder.warnings) == 3
    state = saved(tmp_path / "run")
    assert (state.next_episode, state.faults_in_a_row) == (first, 3)
    assert (0 if state.transitions is None else len(state.transitions)) == 6 * first
    assert len(_metrics(tmp_path / "run")) == first
    faults({})
    state = resume(tmp_path / "run")
    assert state.next_episode == 3
    assert state.faults_in_a_row == 0
    start(tmp_path / "sound", FAULTY)  # dropped episodes leave no trace in the numbers that follow
    assert state_numbers(state) == state_numbers(saved(tmp_path / "sound"))


@pytest.mark.usefixtures("no_artefacts")
def test_faults_that_are_not_in_a_row_do_not_stop_it(
    tmp_path: pathlib.Path, faults: Callable[[dict[int, str]], None]
) -> None:
    faults(dict.fromkeys((0, 1, 3, 4, 6, 7), "nan"))
    recorder = Recorder()
    state = start(tmp_path / "run", FAULTY, observer=recorder)
    assert len(recorder.warnings) == 6
    assert state.next_episode == 3


@pytest.mark.usefixtures("no_picture")
def test_a_fault_in_evaluation_costs_that_episode_only(
    tmp_path: pathlib.Path, faults: Callable[[dict[int, str]], None]
) -> None:
    faults(dict.fromkeys((1, 3), "nan"))
    recorder = Recorder()
    start(tmp_path / "run", FAULTY, "num_episodes=1", "num_evaluation_episodes=4", observer=recorder)
    assert len(recorder.warnings) == 2
    assert len(json.loads(recorder.paths["evaluation"].read_text())["returns"]) == 2
    faults(dict.fromkeys(range(9), "nan"))
    with pytest.raises(UserError, match="failed in every evaluation episode"):
        experiment.evaluate_run(tmp_path / "run", num_episodes=9, seed=None, observer=recorder)
    assert len(recorder.warnings) == 2 + 3
    faults({1: "nan"})
    assert len(experiment.evaluate_run(tmp_path / "run", num_episodes=3, seed=None, observer=recorder)) == 2


@pytest.mark.usefixtures("no_picture")
def test_a_run_that_cannot_be_evaluated_leaves_everything_else(
    tmp_path: pathlib.Path, faults: Callable[[dict[int, str]], None]
) -> None:
    faults(dict.fromkeys(range(1, 9), "raise"))
    recorder = Recorder()
    with pytest.raises(UserError, match="failed in every evaluation episode"):
        start(tmp_path / "run", FAULTY, "num_episodes=1", observer=recorder)
    assert all(path.exists() for path in recorder.paths.values())
    assert recorder.summary["evaluation return"] == "not evaluated"


# Evaluation


@pytest.mark.usefixtures("no_picture")
def test_evaluation_is_reproducible_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", DRIFT)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def returns(num_episodes: int | None = None, seed: int | None = None) -> list[float]:
        return experiment.evaluate_run(tmp_path / "run", num_episodes=num_episodes, seed=seed, observer=Recorder())

    once = returns()
    assert once == returns() == json.loads((tmp_path / "run" / "evaluation.json").read_text())["returns"]
    assert len(once) == 2
    assert returns(3)[:2] == once
    assert set(returns(seed=1)).isdisjoint(once)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


@pytest.mark.usefixtures("no_artefacts")
def test_evaluation_starts_where_training_did_not(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[torch.Tensor] = []
    reset = Environment.reset

    def recorded(self: Environment, *, seed: int) -> torch.Tensor:
        starts.append(reset(self, seed=seed))
        return starts[-1]

    monkeypatch.setattr(Environment, "reset", recorded)
    start(tmp_path / "run", DRIFT, "num_episodes=4", "num_evaluation_episodes=6")
    experiment.evaluate_run(tmp_path / "run", num_episodes=6, seed=None, observer=Recorder())
    assert len(starts) == 16
    assert len(torch.stack(starts).unique(dim=0)) == 10
    assert torch.equal(torch.stack(starts[4:10]), torch.stack(starts[10:]))


@pytest.mark.usefixtures("no_artefacts")
def test_a_run_that_has_learned_nothing_cannot_be_evaluated(
    tmp_path: pathlib.Path, faults: Callable[[dict[int, str]], None]
) -> None:
    faults(dict.fromkeys(range(3), "nan"))
    with pytest.raises(UserError, match="in a row"):
        start(tmp_path / "run", FAULTY)
    with pytest.raises(UserError, match=r"has not learned anything yet: go on with bayes-mbrl resume"):
        experiment.evaluate_run(tmp_path / "run", num_episodes=None, seed=None, observer=Recorder())


# Every choice of the registry


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.filterwarnings("ignore:.*draws diverged")
@pytest.mark.parametrize(
    ("section", "name"),
    [
        pytest.param(section, name, marks=pytest.mark.slow if name == "nuts" else ())  # it compiles for seconds
        for section, table in SECTIONS.items()
        for name, row in table.rows.items()
        if row.plans  # the others have their own table: algorithms/test_conformance.py
    ],
)
def test_every_choice_does_a_run(tmp_path: pathlib.Path, section: str, name: str) -> None:
    more = {"distribution-sampling": ("rollout.num_noise=2",), "linear": ("posterior=exact-linear",)}.get(name, ())
    more += ("dynamics=linear",) if name == "exact-linear" else ()
    more += ("dynamics.system=toy_systems:LINEAR",) if name == "physics" else ()
    env = "toy_environments:Choices-v0" if name == "exhaustive" else "LinearGaussian-v0"
    state = start(tmp_path / "run", env, "num_episodes=2", f"{section}={name}", *more)
    assert state.posterior is not None
    assert math.isfinite(state.metrics[-1]["return"])
    if state.metrics[-1]["phase"] != "base policy":  # version 0.5 has learned nothing before its last episode
        assert math.isfinite(state.metrics[-1]["held_out_log_likelihood"])
    assert state_numbers(saved(tmp_path / "run")) == state_numbers(state)


# Environments that know nothing of this program


@pytest.mark.parametrize("name", ["Drift", "Short", "Single", "Exploding"])
@pytest.mark.parametrize("posterior", ["mean-field", "exact-linear"])
def test_an_environment_with_unknown_reward(tmp_path: pathlib.Path, name: str, posterior: str) -> None:
    recorder = Recorder()
    state = start(
        tmp_path / "run", f"toy_environments:{name}-v0", f"posterior={posterior}", "posterior.batch_size=64"
        if posterior != "exact-linear" else "dynamics=linear", observer=recorder,
    )  # fmt: skip
    assert state.transitions is not None
    assert len(state.transitions) == {"Drift": 18, "Single": 3, "Exploding": 36}.get(name, len(state.transitions))
    assert all(math.isfinite(metrics["return"]) for metrics in state.metrics)
    assert all(path.exists() for path in recorder.paths.values())


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize("planner", ["cem", "random-shooting", "exhaustive"])
@pytest.mark.parametrize("name", ["Choices-v0", "ManyChoices-v0"])
def test_an_environment_whose_actions_are_choices(tmp_path: pathlib.Path, name: str, planner: str) -> None:
    more = [f"planner={planner}"] if planner != "exhaustive" else ["planner=exhaustive", "planner.horizon=2"]
    state = start(tmp_path / "run", f"toy_environments:{name}", *more)
    assert state.transitions is not None
    blocks = torch.split(state.transitions.action, [5] if name == "Choices-v0" else [3, 2], dim=1)
    for block in blocks:
        assert (block.sum(1) == 1).all()
        assert len(block.unique(dim=0)) > 1


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("env", "planner", "kind", "suitable"),
    [
        ("toy_environments:Choices-v0", "mppi", "choices out of 5", "random-shooting, cem, icem, exhaustive"),
        ("Pendulum-v1", "exhaustive", "continuous", "random-shooting, cem, icem, mppi, gradient, ilqr"),
        ("toy_environments:Choices-v0", "ilqr", "choices out of 5", "random-shooting, cem, icem, exhaustive"),
    ],
)
def test_a_planner_that_does_not_suit_the_actions(env: str, planner: str, kind: str, suitable: str) -> None:
    error = _mistake("run", "--env", env, "--planner", planner, "--out", "run")
    assert f"planner {planner} cannot plan the actions of" in error
    assert f"which are {kind}: planner is one of {suitable}" in error


def test_the_learned_reward_is_what_plans_are_scored_by(tmp_path: pathlib.Path) -> None:
    state = start(tmp_path / "run", DRIFT, "num_episodes=6", "posterior.num_steps=150", "dynamics.hidden=[16]")
    with Environment(DRIFT) as environment:
        builder = experiment.Builder(configure(DRIFT, "dynamics.hidden=[16]"), environment)
        agent = builder.agent(*experiment.fitted(state))
        assert agent.dynamics.output_dim == 4
        near, far = torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)
        scores = [
            float(agent.score(plan, torch.tensor(observation), torch.Generator().manual_seed(0)))
            for plan, observation in ((near, [0.0, 0.0]), (far, [1.0, -1.0]))
        ]
    assert scores[0] > scores[1] + 0.5


@pytest.mark.usefixtures("no_artefacts")
@pytest.mark.parametrize("objective", ["mean", "mean-minus-total-std", "lower-tail-mean"])
@pytest.mark.parametrize("kind", ["Exploding", "ExplodingUpwards"])
def test_imagined_trajectories_that_overflow_do_not_stop_a_run(
    tmp_path: pathlib.Path, kind: str, objective: str
) -> None:
    state = start(
        tmp_path / "run", f"toy_environments:{kind}-v0", f"objective={objective}", "planner.horizon=30",
        "posterior=exact-linear", "dynamics=linear", "rollout.num_noise=2",
    )  # fmt: skip
    assert state.next_episode == 3


# What a person can do wrong


def _cli(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(cli.app, arguments)


def _mistake(*arguments: str) -> str:
    """The one line that a mistake gives."""
    result = _cli(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert result.stderr.count("error: ") == 1
    return result.stderr


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """In a folder of its own, and torch's number of threads stays as it is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("kind", ["BinaryActions", "DictObservations", "UnboundedActions"])
def test_unsupported_spaces_say_which_are_supported(kind: str) -> None:
    error = _mistake("run", "--env", f"toy_environments:{kind}-v0", "--out", "run", *overrides())
    assert "supported are Box or Discrete observations, and Box actions with finite bounds, Discrete or" in error


@pytest.mark.usefixtures("plain")
def test_an_environment_that_is_not_there(tmp_path: pathlib.Path) -> None:
    assert "cannot import 'nowhere'" in _mistake("run", "--env", "nowhere:Drift-v0", "--out", "run")
    assert "unknown environment" in _mistake("run", "--env", "toy_environments:Drif-v0", "--out", "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("posterior.learning_rate=1e30",), "posterior mean-field: the fit diverged at step"),
        (("posterior=mc-dropout", "dynamics.hidden=[]"), "posterior mc-dropout: dropout needs hidden units"),
    ],
)
def test_settings_that_turn_out_impossible_during_the_run(more: tuple[str, ...], message: str) -> None:
    assert message in _mistake("run", "--env", DRIFT, "--out", "run", *overrides(*more))


@pytest.mark.usefixtures("plain", "no_artefacts")
def test_a_configuration_that_was_changed_under_a_run(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", DRIFT)
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    for old, new, message in (
        ("hidden: [4]", "hidden: [5]", "other parameters than the dynamics in its config.yaml"),
        (f"env: {DRIFT}", "env: LinearGaussian-v0", "learned with 2 observed numbers and 1 actions"),
        ("name: mean-field", "name: ensemble", "kind 'mean-field'; known kinds: draws"),
        ("seed: 0", "seed: -1", "seed"),
        ("seed: 0", "seed: [", "not YAML"),
    ):
        assert old in text
        changed = text.replace(old, new)
        if new == "name: ensemble":  # without the settings that only a mean field has
            changed = re.sub(r"(?ms)^posterior:\n(  .*?\n)+", "posterior: ensemble\n", text)
        config.write_text(changed)
        assert message in _mistake("resume", "run", "--episodes", "4")
        assert message in _mistake("evaluate", "run")
    config.write_text(text)
    assert _cli("resume", "run", "--episodes", "4").exit_code == 0


@pytest.mark.usefixtures("plain", "no_artefacts")
def test_a_damaged_checkpoint_and_one_of_another_version(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", DRIFT)
    newest = tmp_path / "run" / "checkpoint" / "000003"
    posterior = (newest / "posterior.safetensors").read_bytes()
    (newest / "posterior.safetensors").write_bytes(posterior[:-10])
    for command in ("resume", "evaluate"):
        assert "is damaged" in _mistake(command, "run")
    (newest / "posterior.safetensors").write_bytes(posterior)
    document = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({**document, "format": 99}))
    for command in ("resume", "evaluate"):
        assert "is of format 99" in _mistake(command, "run")
    (tmp_path / "run" / "checkpoint" / "latest").write_text("000002\n")  # as the message of a damaged one says
    assert _cli("resume", "run").exit_code == 0
    assert saved(tmp_path / "run").next_episode == 3


@pytest.mark.usefixtures("plain")
def test_a_folder_that_exists_or_is_no_run(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert "exists and is not empty" in _mistake("run", "--env", DRIFT, "--out", "mine", *overrides())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    for command in ("resume", "evaluate"):
        assert "has no config.yaml" in _mistake(command, "mine")
        assert "does not exist" in _mistake(command, "nowhere")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("when", ["start", "end"])
@pytest.mark.skipif(shutil.which("mount") is None, reason="NOT TESTED: no command `mount` on this system")
def test_a_full_disk_costs_nothing_that_was_saved(tmp_path: pathlib.Path, when: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = {"start": "12k", "end": "160k"}[when]
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: mounting is not permitted here ({mounted.stderr.decode().strip()})")
    try:
        error = _mistake("run", "--env", DRIFT, "--out", str(disk / "run"), *overrides())
        assert "the disk is full" in error
        if when == "end":
            assert saved(disk / "run").next_episode == 3
            assert "bayes-mbrl resume" in error
            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            assert _cli("resume", str(disk / "run")).exit_code == 0
            start(tmp_path / "roomy", DRIFT)
            assert numbers(disk / "run") == numbers(tmp_path / "roomy")
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.usefixtures("plain", "no_artefacts")
@pytest.mark.skipif(shutil.which("mount") is None, reason="NOT TESTED: no command `mount` on this system")
def test_a_read_only_run_can_be_evaluated_and_not_resumed(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: mounting is not permitted here ({mounted.stderr.decode().strip()})")
    try:
        start(disk / "run", DRIFT)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for more in ((), ("--episodes", "4")):
            assert "the disk is read-only" in _mistake("resume", str(disk / "run"), *more)
        assert _cli("evaluate", str(disk / "run")).exit_code == 0
        assert "the disk is read-only" in _mistake("run", "--env", DRIFT, "--out", str(disk / "new"), *overrides())
    finally:
        subprocess.run(["umount", disk], check=True)


# The real command


@pytest.mark.slow
def test_an_environment_of_the_working_folder_by_the_real_command(tmp_path: pathlib.Path) -> None:
    shutil.copy(SUPPORT / "toy_environments.py", tmp_path / "my_environments.py")
    done = _command("run", "--env", "my_environments:Drift-v0", "--out", "run", *overrides(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed = dict(line.split(": ", 1) for line in done.stdout.splitlines() if not line.startswith("episode"))
    assert all((tmp_path / path).exists() for label, path in printed.items() if path.startswith("run/"))
    assert sum(line.startswith("episode ") for line in done.stdout.splitlines()) == 3
    evaluated = _command("evaluate", "run", "--episodes", "3", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert re.fullmatch(r"evaluation return: -\S+ ± \S+ \(mean .* of 3 episodes\)\n", evaluated.stdout)
    broken = _command("run", "--env", "my_environments:NotANumber-v0", "--out", "broken", *overrides(), cwd=tmp_path)
    assert broken.returncode == 2
    assert [line.split(":")[0] for line in broken.stderr.splitlines()] == ["warning"] * 3 + ["error"]
    assert has_checkpoint(tmp_path / "broken")


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: pathlib.Path) -> None:
    shutil.copy(SUPPORT / "toy_environments.py", tmp_path / "my_environments.py")
    arguments = ["run", "--env", "my_environments:Slow-v0", "--out", "a run", *overrides()]
    with subprocess.Popen(
        [COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("episode 0") for line in lines)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "stopped; what is done is saved in a run; go on with: bayes-mbrl resume 'a run'\n"
    state = load_checkpoint(tmp_path / "a run", posterior_kinds("mean-field"))
    assert state.next_episode == 1
    assert len(_metrics(tmp_path / "a run")) == 1


@pytest.mark.usefixtures("no_artefacts")
def test_a_failed_fit_keeps_the_episode_and_can_be_mended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise UserError("posterior mean-field: the fit diverged at step 3: lower learning_rate")

    with monkeypatch.context() as broken:
        broken.setattr(Builder, "fit", diverges)
        with pytest.raises(
            UserError, match=r"the data are kept: change that in .*config\.yaml, then bayes-mbrl resume"
        ):
            start(tmp_path / "run", DRIFT, "num_episodes=1")
    state = resume(tmp_path / "run", 2)
    assert state.next_episode == 2
    assert state.posterior is not None
    assert state.transitions is not None
    assert sorted(set(state.transitions.episode.tolist())) == [0, 1]
    assert [metrics["episode"] for metrics in state.metrics] == [0, 1]
    assert state.num_fitted == len(state.transitions)


@pytest.mark.usefixtures("no_artefacts")
def test_more_episodes_are_done_although_a_limit_of_steps_had_ended_the_run(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", DRIFT, "num_episodes=3", "num_steps=1")
    assert resume(tmp_path / "run", 3).next_episode == 3
