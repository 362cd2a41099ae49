"""Recorded data: what is read of them, and a folder that report, diagnose, evaluate and resume open."""

import contextlib
import dataclasses
import gc
import json
import pathlib
import shutil
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
import typer.testing
from minari.data_collector import EpisodeBuffer
from toy_runs import TINY_NETWORK, resume, saved, start, state_numbers

from bayes_mbrl import artefacts, cli, offline
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.recorded import make_stand_in, recording_of
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.errors import UserError
from bayes_mbrl.loaded_run import open_run
from bayes_mbrl.run_folder import load_run

TINY = [*TINY_NETWORK, "planner.horizon=2", "planner.num_candidates=6", "planner.num_elites=2", "rollout.num_theta=3"]
Box = gymnasium.spaces.Box


@pytest.fixture(autouse=True)
def minari_home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def _do(*arguments: str, code: int = 0) -> str:
    done = typer.testing.CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


@contextlib.contextmanager
def _minaris_own_ways() -> Iterator[None]:
    """Writing a dataset warns of what is left out, and draws global random numbers; reading one does neither."""
    state = np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()  # a collector that goes leaves a folder behind, with a warning
    np.random.set_state(state)  # noqa: NPY002


def _buffer(observations: Any, actions: Any, *, terminated: bool = False) -> EpisodeBuffer:
    number = len(actions)
    ends = [False] * (number - 1)
    return EpisodeBuffer(
        observations=np.asarray(observations), actions=np.asarray(actions), rewards=np.arange(number) - 1.5,
        terminations=[*ends, terminated], truncations=[*ends, not terminated], infos={},
    )  # fmt: skip


def _make(name: str, buffers: list[EpisodeBuffer], observations: Any, actions: Any) -> None:
    with _minaris_own_ways():
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=observations, action_space=actions, algorithm_name="a", author="b",
            author_email="c", code_permalink="d", eval_env=None, description="e",
        )  # fmt: skip


def _collect(name: str, env: str, episodes: int) -> list[Any]:
    """A dataset of random actions by Minari's own collector, and what really happened in it."""
    with _minaris_own_ways():
        collector = minari.DataCollector(gymnasium.make(env, disable_env_checker=True))
        collector.action_space.seed(1)
        seen = []
        for seed in range(episodes):
            state, _ = collector.reset(seed=seed)
            ended = False
            while not ended:
                action = collector.action_space.sample()
                following, reward, terminated, truncated, _ = collector.step(action)
                seen.append((state, action, reward, following, terminated, seed))
                state, ended = following, terminated or truncated
        collector.create_dataset(
            name, algorithm_name="a", author="b", author_email="c", code_permalink="d", description="e"
        )
        collector.close()
        del collector
    return seen


def test_a_dataset_of_minari_is_what_happened() -> None:
    seen = _collect("cart/random-v0", "CartPole-v1", 3)
    recording = offline.read_data("cart/random-v0")
    data = recording.transitions
    assert (recording.env, recording.choices) == ("CartPole-v1", (2,))
    states, actions, rewards, following, terminated, episodes = zip(*seen, strict=True)
    assert np.array_equal(data.state, np.array(states))
    assert np.array_equal(data.next_state, np.array(following))
    assert data.action.argmax(1).tolist() == [int(a) for a in actions]
    assert bool((data.action.sum(1) == 1).all())
    assert data.reward.tolist() == list(rewards)
    assert data.terminated.tolist() == list(terminated)
    assert data.episode.tolist() == list(episodes)


def test_flattened_observations_and_choices_that_do_not_start_at_zero() -> None:
    space = gymnasium.spaces.MultiDiscrete([2, 3], start=[4, -1])
    observations = np.arange(24).reshape(4, 2, 3)
    episodes = [
        _buffer(observations, [[4, -1], [5, 1], [4, 0]]),
        _buffer(observations[:2] + 1, [[5, 0]], terminated=True),
    ]
    _make("many-v0", episodes, Box(0, 255, (2, 3), np.int64), space)
    data = offline.read_data("many-v0").transitions
    assert data.action.tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0], [0, 1, 0, 1, 0]]
    assert data.state[1].tolist() == [6, 7, 8, 9, 10, 11]
    assert data.next_state[2].tolist() == [18, 19, 20, 21, 22, 23]  # the last of a truncated episode is whole
    assert data.terminated.tolist() == [False, False, False, True]
    assert data.episode.tolist() == [0, 0, 0, 1]


@pytest.mark.slow
def test_from_a_dataset_to_a_page_and_back_to_the_environment(tmp_path: pathlib.Path) -> None:
    _collect("toys/drift-v0", "Drift-v0", 4)
    folder = tmp_path / "run"
    _do("fit", "toys/drift-v0", "--out", str(folder), "--hold-out", "1", "--seed", "3", *TINY)
    config = load_run(folder)
    assert (config.env, config.num_episodes, config.seed) == ("Drift-v0", 4, 3)
    assert (len(saved(folder).transitions or ()), saved(folder).num_fitted) == (24, 18)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    assert (folder / "posterior.nc").exists()
    with open_run(folder) as run:
        assert run.final is not None
        assert run.final.num_fitted == 18
        assert run.unseen is not None
        assert run.unseen.episode.tolist() == [3] * 6
    _do("report", str(folder))
    assert (folder / "report.html").exists()
    assert "evaluation.npz" not in _do("diagnose", str(folder), "--folds", "0")
    assert "evaluation return" in _do("evaluate", str(folder), "--episodes", "2")
    assert resume(folder, episodes=5).next_episode == 5
    assert saved(folder).num_fitted == 30


def test_without_an_environment(tmp_path: pathlib.Path) -> None:
    """Bounds and reward are learned from; to act, an environment has to be named."""
    generator = np.random.default_rng(0)
    episodes = [_buffer(generator.normal(size=(9, 2)), generator.uniform(-1, 2, size=(8, 1))) for _ in range(3)]
    _make("log-v0", episodes, Box(-np.inf, np.inf, (2,)), Box(-1.0, 2.0, (1,)))
    folder = tmp_path / "run"
    _do("fit", "log-v0", "--out", str(folder), *TINY)
    config = load_run(folder)
    assert config.env == "recorded (2 numbers, actions [-1, 2])"
    with open_run(folder) as run:
        assert run.missing == ()  # no evaluation is missed where there was none
        assert run.final is not None
        assert run.final.dynamics.output_dim == 4
    assert "failed" not in _do("report", str(folder), "--format", "md")
    page = (folder / "report.md").read_text()
    assert "All data were recorded elsewhere, so there are no two policies to compare" in page
    assert "No random actions are judged: the data were recorded elsewhere" in page
    assert "name one of the same states and actions" in _do("evaluate", str(folder), code=2)
    assert "evaluation return" in _do("evaluate", str(folder), "--env", "Drift-v0")
    assert "has 3 and 1" in _do("evaluate", str(folder), "--env", "Pendulum-v1", code=2)
    assert "name one of the same states and actions" in _do("resume", str(folder), "--episodes", "5", code=2)


def test_the_folder_of_a_run_is_data_too(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "first", "toy_environments:ManyChoices-v0", "num_episodes=2")
    folder = tmp_path / "second"
    _do("fit", str(tmp_path / "first"), "--out", str(folder), "--posterior", "point", *TINY)
    assert load_run(folder).env == "toy_environments:ManyChoices-v0"
    first, second = (Transitions.load(tmp_path / name / "transitions.npz") for name in ("first", "second"))
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])
    (tmp_path / "first" / "config.yaml").unlink()  # then nothing says how many choices there were
    assert offline.read_data(str(tmp_path / "first" / "transitions.npz")).choices == ()


def test_a_policy_is_learned_from_recorded_data_alone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2.0 needs no more than the posterior; the episode that is held out is not learned from."""
    monkeypatch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))
    start(tmp_path / "first", "toy_environments:Drift-v0", "num_episodes=3")
    backprop = ("--algorithm", "v2.0", "algorithm.num_gradient_steps=4", "algorithm.horizon=3", *TINY)
    _do("fit", str(tmp_path / "first"), "--hold-out", "1", "--out", str(tmp_path / "all"), *backprop)
    learned = saved(tmp_path / "all").learned
    assert "gradient_norm" in saved(tmp_path / "all").metrics[-1]
    assert "evaluation return" in _do("evaluate", str(tmp_path / "all"))
    data = Transitions.load(tmp_path / "first" / "transitions.npz")
    (tmp_path / "fewer").mkdir()
    data[data.episode < 2].save(tmp_path / "fewer" / "transitions.npz")
    shutil.copy(tmp_path / "first" / "config.yaml", tmp_path / "fewer")
    _do("fit", str(tmp_path / "fewer"), "--out", str(tmp_path / "two"), *backprop)
    assert all(torch.equal(learned[name], value) for name, value in saved(tmp_path / "two").learned.items())
    _do("fit", str(tmp_path / "first"), "--out", str(tmp_path / "whole"), *backprop)
    assert any(not torch.equal(learned[name], value) for name, value in saved(tmp_path / "whole").learned.items())


def _walks(*lengths: int) -> Transitions:
    """Episodes of a random walk, one after the other; the first one ends by itself."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for number, length in enumerate(lengths):
        path = torch.randn(length + 1, 2, generator=generator).cumsum(0)
        ends = torch.zeros(length, dtype=torch.bool)
        ends[-1] = number == 0
        action = torch.randn(length, 1, generator=generator)
        rows.append(Transitions(path[:-1], action, action[:, 0], path[1:], ends, torch.full((length,), number)))
    return Transitions.concatenate(rows)


def _read(path: pathlib.Path, transitions: Transitions) -> Transitions:
    transitions.save(path)
    return offline.read_data(str(path)).transitions


def _equal(one: Transitions, other: Transitions) -> bool:
    return all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_rows_of_parallel_environments_are_put_together(tmp_path: pathlib.Path) -> None:
    """One row of each in turn, until it has ended; ids are in no order."""
    apart = _walks(4, 7, 1, 5)
    step = torch.cat([torch.arange(n) for n in (4, 7, 1, 5)])
    turns = step.argsort(stable=True)
    mixed = apart[turns]
    for ids in ([0, 1, 2, 3], [7, 3, 90, -1]):
        named = dataclasses.replace(mixed, episode=torch.tensor(ids)[mixed.episode])
        assert _equal(_read(tmp_path / "mixed.npz", named), apart)
    assert _equal(_read(tmp_path / "apart.npz", apart), apart)


def test_an_environment_that_begins_anew_under_its_old_id(tmp_path: pathlib.Path) -> None:
    """Ids of environments and not of episodes, and two files that were put together: what does not go on is new."""
    apart = _walks(4, 7, 6, 5)
    ids = torch.tensor([0, 1, 0, 1])[apart.episode]
    assert _equal(_read(tmp_path / "two.npz", dataclasses.replace(apart, episode=ids)), apart)


def test_rows_that_cannot_be_put_together_are_refused(tmp_path: pathlib.Path) -> None:
    apart = _walks(4, 7, 6, 5)
    step = torch.cat([torch.arange(n) for n in (4, 7, 6, 5)])
    mixed = apart[step.argsort(stable=True)]
    with pytest.raises(UserError, match=r"mixed\.npz: ids of episodes come back after others.*sort them by episode"):
        _read(tmp_path / "mixed.npz", dataclasses.replace(mixed, next_state=mixed.next_state + 1))
    sorted_ = dataclasses.replace(apart, next_state=apart.next_state + 1)
    assert _equal(_read(tmp_path / "apart.npz", sorted_), sorted_)


def test_a_device_for_what_acts_later(tmp_path: pathlib.Path) -> None:
    _collect("toys/drift-v0", "Drift-v0", 1)
    text = _do("fit", "toys/drift-v0", "--device", "cuda:99", "--out", str(tmp_path / "run"), code=2)
    assert "device 'cuda:99' does not exist here" in text
    assert not (tmp_path / "run").exists()


def test_an_environment_that_is_not_that_of_the_data(tmp_path: pathlib.Path) -> None:
    _collect("toys/drift-v0", "Drift-v0", 1)
    text = _do("fit", "toys/drift-v0", "--env", "Pendulum-v1", "--out", str(tmp_path / "run"), code=2)
    assert "the data have 2 observed numbers and 1 numbers in an action, Pendulum-v1 has 3 and 1" in text
    assert not (tmp_path / "run").exists()
    text = _do("fit", "toys/drift-v0", "--hold-out", "1", "--out", str(tmp_path / "run"), code=2)
    assert "need 0 <= --hold-out < 1" in text


def test_a_recorded_environment_that_is_not_here_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _collect("toys/drift-v0", "Drift-v0", 1)
    recording = offline.read_data("toys/drift-v0")
    told: list[str] = []
    gone = recording.__class__(**{**recording.__dict__, "env": "Gone-v0"})
    config = offline.configure(gone, TINY, options={}, warn=told.append)
    assert config.env == "recorded (2 numbers, actions [-1, 2])"
    assert "the recorded environment is not used: unknown environment 'Gone-v0'" in told[0]


def test_what_is_no_data(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"no Minari dataset of this name.*there: none\); nothing is downloaded: minari dow"
    ):
        offline.read_data("nobody/nothing-v0")
    with pytest.raises(UserError, match=r"transitions\.npz does not exist: name a Minari dataset, the folder of a run"):
        offline.read_data(str(tmp_path))
    np.savez(tmp_path / "part.npz", state=np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"part\.npz is not a complete file.*Needed are state, action, reward"):
        offline.read_data(str(tmp_path / "part.npz"))
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"the package minari is needed .*: pip install 'minari\[hdf5\]"):
        offline.read_data("nobody/nothing-v0")


def test_numbers_and_spaces_that_are_not_supported() -> None:
    _make("nan-v0", [_buffer([[0.0], [np.nan], [0.0]], [[0.5], [0.1]])], Box(-np.inf, np.inf, (1,)), Box(-1, 1, (1,)))
    with pytest.raises(UserError, match="nan-v0 cannot be used: state is not finite in 1 rows, first in row 1"):
        offline.read_data("nan-v0")
    _make("binary-v0", [_buffer([[0.0], [1.0]], [[1, 0]])], Box(-9, 9, (1,)), gymnasium.spaces.MultiBinary(2))
    with pytest.raises(UserError, match=r"binary-v0 has actions MultiBinary\(2\); supported are Box"):
        offline.read_data("binary-v0")


@pytest.mark.parametrize(
    ("name", "state_dim", "choices", "low", "high"),
    [
        ("recorded (3 numbers, actions [-2, 2] [-0.1, 1.5e-05])", 3, (), [-2, -0.1], [2, 1.5e-5]),
        ("recorded (1 numbers, choices 4)", 1, (4,), [0] * 4, [1] * 4),
        ("recorded (12 numbers, choices 2 3)", 12, (2, 3), [0] * 5, [1] * 5),
    ],
)
def test_names_of_stand_ins(name: str, state_dim: int, choices: Any, low: Any, high: Any) -> None:
    with Environment(find_spec(name)) as environment:
        assert (environment.state_dim, environment.choices) == (state_dim, choices)
        assert torch.equal(environment.low, torch.tensor(low, dtype=torch.float32))
        assert torch.equal(environment.high, torch.tensor(high, dtype=torch.float32))
        with pytest.raises(UserError, match="recorded elsewhere"):
            environment.reset(seed=0)


@pytest.mark.parametrize("name", ["recorded (3 numbers)", "recorded (3 numbers, actions [1])", "recorded (x"])
def test_a_name_that_says_too_little(name: str) -> None:
    with pytest.raises(UserError, match="cannot read the environment"):
        make_stand_in(name)


def test_bounds_are_read_off_the_actions(generator: torch.Generator) -> None:
    def rows(action: torch.Tensor) -> Transitions:
        state, nothing = torch.randn(4, 2, generator=generator), torch.zeros(4)
        return Transitions(state, action, nothing, state, nothing.bool(), nothing.long())

    recording = recording_of(rows(torch.tensor([[0.0, 3.0], [1.0, -1.0], [0.5, 0.0], [0.0, 0.0]])), None)
    assert recording.stand_in == "recorded (2 numbers, actions [0, 1] [-1, 3])"
    assert recording_of(rows(torch.eye(4)), None).stand_in == "recorded (2 numbers, choices 4)"
    with pytest.raises(UserError, match=r"the actions \[1\] never change in the data"):
        recording_of(rows(torch.tensor([[0.0, 3.0], [1.0, 3.0], [0.5, 3.0], [0.0, 3.0]])), None)


def test_equal_seeds_give_equal_fits(tmp_path: pathlib.Path) -> None:
    _collect("toys/drift-v0", "Drift-v0", 2)
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        _do("fit", "toys/drift-v0", "--out", str(tmp_path / name), "--seed", seed, *TINY)
    a, b, c = (state_numbers(saved(tmp_path / name))["posterior"] for name in "abc")
    assert a == b
    assert a != c
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text())["returns"] == []
