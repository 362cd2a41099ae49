"""Shift and model error of a run: known cases made from a real one, and a sentence for all that is missing."""

import dataclasses
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
from torch import Tensor
from toy_runs import start

from bayes_mbrl.analysis.charts import Chart, Section
from bayes_mbrl.analysis.uncertainty import mixture_log_likelihood
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments import linear_gaussian
from bayes_mbrl.environments.adapter import EnvironmentFault
from bayes_mbrl.environments.known_truth import linear_gaussian_step
from bayes_mbrl.loaded_run import Knowledge, LoadedRun, open_run
from bayes_mbrl.sections import model_error, shift
from bayes_mbrl.sections.shift import _fresh_episodes, base_policy_rows, learned_policy_rows, section

EXACT = ("dynamics=linear", "posterior=exact-linear")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    start(folder, "LinearGaussian-v0", *EXACT, "num_episodes=4", "num_evaluation_episodes=5")
    with open_run(folder) as run:
        yield run


def _run(folder: pathlib.Path, env: str, *more: str) -> tuple[LoadedRun, Section]:
    start(folder / "run", env, *more)
    with open_run(folder / "run") as run:
        return run, section(run)


def _texts(found: Section) -> str:
    return " ".join([*found.text, *found.missing])


def test_a_whole_run(whole: LoadedRun) -> None:
    found = section(whole)
    assert found.missing == []
    assert [table.title.split()[0] for table in found.tables] == ["States", "Error", "How"]
    assert len(found.tables[1].rows) == 5
    titles = [figure.title for figure in found.figures]
    assert titles[3:] == [
        "Chance alone: energy distance", "Model error as data come in", "Error by horizon (all data)",
        "Error by horizon (base policy's data)",
    ]  # fmt: skip
    assert all(title.startswith("Visited: s[") for title in titles[:3])
    assert all(isinstance(figure, Chart) and figure.note for figure in found.figures)
    assert (
        "1 episode of training (50 transitions) and 8 episodes played afresh for this page (400 transitions; "
        "at most 8 episodes and 2,000 steps)" in (found.text[0])
    )
    assert "5 episodes (evaluation episodes, 250 transitions)" in found.text[0]


def test_the_same_run_gives_the_same_section(whole: LoadedRun) -> None:
    first, second = section(whole), section(whole)
    assert (first.text, first.tables) == (second.text, second.tables)


def test_fresh_episodes_are_no_episodes_of_training(whole: LoadedRun) -> None:
    fresh = _fresh_episodes(whole, [])
    assert fresh is not None
    starts = [fresh.state[fresh.episode == number][0] for number in range(8)]
    assert len({tuple(state.tolist()) for state in starts}) == 8
    assert whole.transitions is not None
    assert not any(bool((whole.transitions.state == state).all(1).any()) for state in starts)


def test_fresh_episodes_do_not_depend_on_how_fast_they_are_played(
    whole: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = _fresh_episodes(whole, [])
    hours = itertools.count()
    for clock in ("monotonic", "perf_counter", "time"):
        monkeypatch.setattr(time, clock, lambda: 3600.0 * next(hours))
    slow = _fresh_episodes(whole, [])
    assert fast is not None
    assert slow is not None
    assert torch.equal(fast.state, slow.state)


def test_fresh_episodes_are_bounded_by_steps(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for budget, episodes in ((399, 7), (120, 2), (100, 2), (99, 1), (1, 1)):  # of 50 steps; one is always played
        monkeypatch.setattr(shift, "FRESH_STEPS", budget)
        fresh = _fresh_episodes(whole, [])
        assert fresh is not None
        assert len(fresh) == 50 * episodes


def _error(rmse: float, standard_error: float) -> model_error._Error:
    none = torch.tensor(0.0)
    return model_error._Error(torch.tensor(rmse), torch.tensor(standard_error), none, none, 400)


@pytest.mark.parametrize(
    ("away", "spread", "words"),
    [(1.3, 0.2, "not clearly another than that"), (1.5, 0.2, "1.5 times that"), (0.7, 0.2, "not clearly"),
     (0.5, 0.2, "0.5 times that"), (9.0, math.nan, "not clearly"), (1.3, 0.1, "1.3 times that")],
)  # fmt: skip
def test_a_cost_of_the_shift_is_claimed_beyond_two_standard_errors(away: float, spread: float, words: str) -> None:
    first = "base policy's data only"
    found = {
        (first, "base policy, fresh episodes"): _error(1.0, spread),
        (first, "the first planned episode"): _error(away, math.nan),
    }
    assert f"is {words}" in model_error._cost_of_shift(found)


def test_equal_policies_are_not_said_to_differ_and_others_are(whole: LoadedRun) -> None:
    fresh = _fresh_episodes(whole, [])
    assert fresh is not None
    other = whole.config.model_copy(update={"seed": 5})
    again = _fresh_episodes(dataclasses.replace(whole, config=other), [])
    assert again is not None
    assert not torch.equal(fresh.state, again.state)
    assert "It cannot be shown" in section(dataclasses.replace(whole, evaluation=again)).text[1]
    moved = dataclasses.replace(again, state=again.state + 9 * again.state.std(0))
    assert section(dataclasses.replace(whole, evaluation=moved)).text[1].startswith("The learned policy visits other")


def _known(step: Callable[[Tensor, Tensor], Tensor]) -> Knowledge:
    noise_std = torch.as_tensor(linear_gaussian.NOISE_STD, dtype=torch.float32)
    return Knowledge(Nothing(), KnownDynamics(step, noise_std=noise_std), num_fitted=200)


def test_the_error_of_the_true_dynamics_is_the_noise(whole: LoadedRun) -> None:
    fresh = _fresh_episodes(whole, [])
    assert fresh is not None
    scale, noise = torch.tensor([0.3, 2.0, 1.0]), torch.as_tensor(linear_gaussian.NOISE_STD, dtype=torch.float32)
    error = model_error._model_error(_known(linear_gaussian_step), fresh, scale, whole.generator("test"), 1000)
    residual = fresh.next_state - linear_gaussian_step(fresh.state, fresh.action)
    assert float(error.rmse) == pytest.approx(float((residual / scale).square().mean().sqrt()), rel=1e-5)
    of_episodes = torch.stack([(residual / scale)[fresh.episode == e].square().mean() for e in range(8)]).sqrt()
    # Episodes are equally long, and their RMSEs nearly equal, so that the error of the root is the root's error.
    assert float(error.rmse_standard_error) == pytest.approx(float(of_episodes.std()) / math.sqrt(8), rel=0.05)
    assert abs(float(error.rmse) - float((noise / scale).square().mean().sqrt())) < 5 * float(error.rmse_standard_error)
    score = torch.distributions.Normal(0.0, noise).log_prob(residual).sum(1).mean()
    assert float(error.log_likelihood) == pytest.approx(float(score), rel=1e-5)
    assert error.num_rows == 400


def test_a_model_that_explodes_is_shown_with_its_diverged_trajectories(whole: LoadedRun) -> None:
    found = section(dataclasses.replace(whole, final=_known(lambda s, a: 1e4 * s + a.sum(-1, keepdim=True))))
    assert "1800 of 1800 imagined trajectories from 60 states diverged" in _texts(found)
    assert "Model of all data: nothing to fit" in _texts(found)
    assert found.tables[2].rows[0][3:5] == ("–", "–")


def test_the_error_by_hand(whole: LoadedRun) -> None:
    """Chunks and thinning do not change what is averaged: the model's own units as the independent way."""
    assert whole.final is not None
    fresh = _fresh_episodes(whole, [])
    assert fresh is not None
    dynamics, generator = whole.final.dynamics, torch.Generator().manual_seed(3)
    scale = dynamics.targets.std  # type: ignore[attr-defined]
    error = model_error._model_error(whole.final, fresh, scale, generator, 300)
    rows = fresh[torch.linspace(0, 399, 300).round().long()]
    theta = whole.final.posterior.sample(model_error.NUM_THETA, generator=torch.Generator().manual_seed(3))
    x, y = dynamics.regression_data(rows)
    rmse = (dynamics.model.predict(theta, x)[0].mean(0) - y).square().mean().sqrt()
    assert float(error.rmse) == pytest.approx(float(rmse), rel=1e-4)
    score = mixture_log_likelihood(dynamics.log_likelihood(theta, rows)).mean()
    assert float(error.log_likelihood) == pytest.approx(float(score), rel=1e-4)
    assert error.num_rows == 300


def test_which_rows_are_whose(whole: LoadedRun) -> None:
    assert set(base_policy_rows(whole).episode.tolist()) == {0}
    assert set(base_policy_rows(dataclasses.replace(whole, metrics=[])).episode.tolist()) == {0}
    assert learned_policy_rows(whole)[0] is whole.evaluation
    rows, name = learned_policy_rows(dataclasses.replace(whole, evaluation=None), max_episodes=2)
    assert rows is not None
    assert (set(rows.episode.tolist()), name) == ({2, 3}, "last episodes of training")


def test_pieces_are_without_gaps(whole: LoadedRun) -> None:
    assert whole.transitions is not None
    pieces = model_error.unbroken(whole.transitions)
    assert torch.equal(pieces.episode, whole.transitions.episode)
    keep = torch.ones(200, dtype=torch.bool)
    keep[[10, 11, 60]] = False
    broken = model_error.unbroken(whole.transitions[keep])
    assert torch.unique_consecutive(broken.episode, return_counts=True)[1].tolist() == [10, 38, 10, 39, 50, 50]
    assert len(model_error.unbroken(whole.transitions[:0])) == 0


def test_what_is_missing_is_said(whole: LoadedRun) -> None:
    nothing = section(dataclasses.replace(whole, transitions=None))
    assert "no transitions of training" in _texts(nothing)
    assert whole.transitions is not None
    base_only = dataclasses.replace(whole, transitions=whole.transitions[:50], evaluation=None)
    assert "All episodes are the base policy's" in _texts(section(base_only))
    no_environment = section(dataclasses.replace(whole, builder=None, final=None))
    assert "errors are not shown" in _texts(no_environment)
    assert "only 6 relabellings exist" in _texts(no_environment)
    assert len(no_environment.figures) == 4
    no_posterior = section(dataclasses.replace(whole, final=None))
    assert "errors are not shown" in _texts(no_posterior)
    no_snapshots = section(dataclasses.replace(whole, snapshots={}))
    assert "posterior of the base policy's data is not kept" in _texts(no_snapshots)
    assert len(no_snapshots.tables[1].rows) == 2
    no_evaluation = section(dataclasses.replace(whole, evaluation=None))
    assert "growth of the error is not shown" in _texts(no_evaluation)
    assert "last episodes of training" in _texts(no_evaluation)


def test_episodes_of_one_step(tmp_path: pathlib.Path) -> None:
    _, found = _run(tmp_path, "Single-v0", *EXACT)
    assert "nothing to fit" in _texts(found)
    assert "cannot be shown" in _texts(found)


def test_huge_states(tmp_path: pathlib.Path) -> None:
    _, found = _run(tmp_path, "Exploding-v0", *EXACT)
    assert len(found.tables) == 3
    assert "nan" not in _texts(found)


def test_an_environment_that_fails_costs_its_episode_only(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    played = shift.run_episode

    def sometimes(*args: object, number: int, **settings: object) -> object:
        if number in (1, 4):
            raise EnvironmentFault("out of order")
        return played(*args, number=number, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(shift, "run_episode", sometimes)
    missing: list[str] = []
    fresh = _fresh_episodes(whole, missing)
    assert fresh is not None
    assert sorted(set(fresh.episode.tolist())) == [0, 2, 3, 5, 6, 7]
    assert missing == ["out of order: this fresh episode of the base policy is left out."] * 2


def test_numbers_with_and_without_their_error() -> None:
    assert model_error.plus_minus(0.12345, 0.0042) == "0.123 ± 0.0042"
    assert model_error.plus_minus(0.12345, math.nan) == "0.123"
    assert model_error.plus_minus(1.0, 4.8e-17) == "1 ± 0"


def test_nothing_of_the_training_data_is_changed(whole: LoadedRun) -> None:
    assert isinstance(whole.transitions, Transitions)
    before = whole.transitions.state.clone()
    section(whole)
    assert torch.equal(before, whole.transitions.state)
