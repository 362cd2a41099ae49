"""What a run leaves behind can be read again and says what the run learned."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import arviz_stats
import matplotlib.image
import numpy as np
import pytest
import torch
from toy_runs import Recorder, configure, resume, saved, start

from bayes_mbrl import artefacts, arviz_export
from bayes_mbrl.algorithms.episode import Episode
from bayes_mbrl.analysis.arviz_tree import load_tree
from bayes_mbrl.analysis.plots import Fan
from bayes_mbrl.build import Builder
from bayes_mbrl.config import load
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.experiment import fitted
from bayes_mbrl.inference.base import load_posterior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.registry import posterior_kinds

DRIFT = "toy_environments:Drift-v0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Recorder]:
    """A finished run of an environment with 250 transitions, and what its observer was told."""
    folder, recorder = tmp_path_factory.mktemp("runs") / "run", Recorder()
    start(folder, "LinearGaussian-v0", "num_episodes=5", "posterior.num_steps=100", observer=recorder)
    return folder, recorder


def test_every_path_that_is_printed_exists(run: tuple[pathlib.Path, Recorder]) -> None:
    folder, recorder = run
    assert set(recorder.paths) == {
        "picture", "ArviZ", "posterior", "transitions", "metrics", "evaluation", "evaluation episodes", "configuration",
    }  # fmt: skip
    for path in recorder.paths.values():
        assert path.is_relative_to(folder)
        assert path.stat().st_size > 0
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial") or path.name.startswith(".")]


def test_the_picture_is_not_blank(run: tuple[pathlib.Path, Recorder]) -> None:
    picture = matplotlib.image.imread(run[1].paths["picture"])
    assert picture.shape[0] >= 800
    assert picture.shape[1] >= 1200
    quarters = [half for rows in np.array_split(picture, 2) for half in np.array_split(rows, 2, axis=1)]
    for quarter in quarters:
        inked = (quarter[..., :3].min(axis=-1) < 0.9).mean()
        assert 0.01 < inked < 0.9


def test_the_posterior_is_the_checkpoints(run: tuple[pathlib.Path, Recorder]) -> None:
    state = saved(run[0])
    assert state.posterior is not None
    posterior = load_posterior(run[1].paths["posterior"], posterior_kinds("mean-field"))
    a, b = (p.sample(3, generator=torch.Generator().manual_seed(0)) for p in (posterior, state.posterior))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_transitions_are_the_checkpoints(run: tuple[pathlib.Path, Recorder]) -> None:
    state = saved(run[0])
    assert state.transitions is not None
    written = Transitions.load(run[1].paths["transitions"]).tensors()
    assert all(torch.equal(tensor, written[name]) for name, tensor in state.transitions.tensors().items())
    with np.load(run[1].paths["transitions"], allow_pickle=False) as file:
        assert set(file.files) == set(written)


def test_the_configuration_is_the_runs(run: tuple[pathlib.Path, Recorder]) -> None:
    expected = configure("LinearGaussian-v0", "num_episodes=5", "posterior.num_steps=100")
    assert load(run[1].paths["configuration"]) == expected


def test_the_summary_and_the_returns_agree(run: tuple[pathlib.Path, Recorder]) -> None:
    recorder = run[1]
    evaluation = json.loads(recorder.paths["evaluation"].read_text())
    assert evaluation["num_transitions"] == 250
    returns = evaluation["returns"]
    mean, std = float(np.mean(returns)), float(np.std(returns, ddof=1))
    assert recorder.summary == {
        "environment steps": 250,
        "evaluation return": f"{mean:.1f} ± {std:.1f} (sd of 2 episodes)",
    }


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
def test_arviz_reads_what_was_learned(run: tuple[pathlib.Path, Recorder]) -> None:
    folder, recorder = run
    tree = load_tree(recorder.paths["ArviZ"])
    assert tree.attrs["environment"] == "LinearGaussian-v0"
    assert tree.attrs["posterior_family"] == "mean-field"
    draws, points = arviz_export.NUM_DRAWS, arviz_export.MAX_POINTS
    assert tree["posterior"]["f"].shape == (1, draws, points, 3)
    index = tree["observed_data"]["transition"].to_numpy()
    assert (index[0], index[-1]) == (0, 249)
    assert (np.diff(index) >= 1).all()
    state = saved(folder)
    assert state.transitions is not None
    chosen = state.transitions[torch.tensor(index)]
    assert np.array_equal(tree["observed_data"]["next_state"], chosen.next_state)
    assert np.array_equal(tree["constant_data"]["state"], chosen.state)
    f, sigma, y = tree["posterior"]["f"], tree["posterior"]["sigma"], tree["observed_data"]["next_state"]
    expected = (-0.5 * ((f - y) / sigma) ** 2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)).sum("state_dim")
    np.testing.assert_allclose(tree["log_likelihood"]["next_state"], expected, rtol=1e-3, atol=1e-3)
    with Environment("LinearGaussian-v0") as environment:
        dynamics = Builder(load(folder / "config.yaml"), environment).dynamics(fitted(state)[0])
    theta = fitted(state)[1].sample(400, generator=torch.Generator().manual_seed(1))
    mean = dynamics.predict(theta, chosen.state.expand(400, -1, -1), chosen.action)[0]
    error = 5 * float(mean.std(0).max()) * math.sqrt(1 / draws + 1 / 400)
    np.testing.assert_allclose(f.mean(("chain", "draw")), mean.mean(0), atol=error)
    assert math.isfinite(float(arviz_stats.loo(tree).elpd))


def test_without_evaluation_the_last_training_episode_is_drawn(tmp_path: pathlib.Path) -> None:
    recorder = Recorder()
    start(tmp_path / "run", DRIFT, "num_evaluation_episodes=0", observer=recorder)
    assert recorder.summary["evaluation return"] == "not evaluated"
    assert all(path.exists() for path in recorder.paths.values())
    assert json.loads(recorder.paths["evaluation"].read_text())["returns"] == []


def test_a_learned_reward_is_no_state(tmp_path: pathlib.Path) -> None:
    recorder = Recorder()
    state = start(tmp_path / "run", DRIFT, "num_evaluation_episodes=1", observer=recorder)
    tree = load_tree(recorder.paths["ArviZ"])
    assert tree["posterior"]["f"].shape == (1, arviz_export.NUM_DRAWS, 18, 2)
    f, sigma, y = tree["posterior"]["f"], tree["posterior"]["sigma"], tree["observed_data"]["next_state"]
    expected = (-0.5 * ((f - y) / sigma) ** 2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)).sum("state_dim")
    np.testing.assert_allclose(tree["log_likelihood"]["next_state"], expected, rtol=1e-3, atol=1e-3)
    assert recorder.summary["environment steps"] == len(state.transitions or ())
    assert "±" not in str(recorder.summary["evaluation return"])


def test_a_single_transition_is_enough(tmp_path: pathlib.Path) -> None:
    recorder = Recorder()
    start(
        tmp_path / "run", "toy_environments:Single-v0", "num_episodes=1", "num_evaluation_episodes=1", observer=recorder
    )
    assert load_tree(recorder.paths["ArviZ"])["posterior"]["f"].shape == (1, arviz_export.NUM_DRAWS, 1, 2)
    assert recorder.paths["picture"].stat().st_size > 10_000


def test_writing_again_gives_the_same_numbers(tmp_path: pathlib.Path) -> None:
    recorder = Recorder()
    start(tmp_path / "run", DRIFT, observer=recorder)
    before = load_tree(recorder.paths["ArviZ"])
    picture = recorder.paths["picture"].read_bytes()
    resume(tmp_path / "run")
    after = load_tree(recorder.paths["ArviZ"])
    for group in ("posterior", "posterior_predictive", "log_likelihood"):
        assert before[group].to_dataset().equals(after[group].to_dataset())
    assert recorder.paths["picture"].read_bytes() == picture


@pytest.fixture
def drifting(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """(builder, state, dynamics, an episode of it) of a small run."""
    monkeypatch.setattr(artefacts, "write", lambda *_: {})
    state = start(tmp_path / "run", DRIFT)
    assert state.transitions is not None
    with Environment(DRIFT) as environment:
        builder = Builder(configure(DRIFT), environment)
        return builder, state, builder.dynamics(state.transitions), state.transitions[6:12]


@pytest.mark.parametrize("scale", [3.0, 300.0, 1e30])
def test_the_fan_is_drawn_as_far_as_every_trajectory_can_be(drifting: tuple[Any, ...], scale: float) -> None:
    """`scale` times larger weights in one of two θ: no trajectory is left out, which would flatter the model."""
    builder, state, dynamics, episode = drifting
    theta = state.posterior.sample(2, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([1.0, scale])
    wild = {name: value * factors.view(-1, *[1] * (value.ndim - 1)) for name, value in theta.items()}
    fan: Fan = artefacts._fan(builder, dynamics, dataclasses.replace(state, posterior=DrawsPosterior(wild)), episode)
    assert np.isfinite(fan.imagined).all()
    assert fan.imagined.shape[0] == artefacts.FAN_SAMPLES
    assert fan.imagined.shape[2] == len(fan.real)
    assert (len(fan.real) == 7) if scale == 3 else (2 <= len(fan.real) < 7)
    if scale == 1e30:  # diverges at once: drawn at the edge, never as what really happened
        assert np.abs(fan.imagined[:, :, 1]).max() > 1e5
    figure = artefacts.run_figure(
        curve=artefacts._learning_curve(builder, state, []), fan=fan, shares=artefacts._shares(dynamics, theta, episode)
    )
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]


def test_the_fan_starts_where_the_episode_started_and_compares_dimensions_by_their_spread(
    drifting: tuple[Any, ...],
) -> None:
    builder, state, dynamics, episode = drifting
    fan = artefacts._fan(builder, dynamics, state, episode)
    assert fan.imagined.shape == (artefacts.FAN_SAMPLES, 1, 7, 2)
    assert np.array_equal(fan.real, torch.cat([episode.state, episode.next_state[-1:]]))
    assert (fan.imagined[:, :, 0] == fan.real[0]).all()
    assert fan.dimension_scale is not None
    np.testing.assert_allclose(fan.dimension_scale, episode.state.std(0, correction=0), rtol=1e-5)


def test_the_summary_of_one_and_of_no_episode(drifting: tuple[Any, ...]) -> None:
    _, state, _, episode = drifting
    one = artefacts.summary(state, [Episode(episode, 0.0)])
    assert one["evaluation return"] == f"{float(episode.reward.sum()):.1f}"
    assert artefacts.summary(state, [])["evaluation return"] == "not evaluated"
