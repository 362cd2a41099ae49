"""A run read back: everything of a whole one, and of a damaged one what is left, with a sentence for the rest."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import torch
from toy_runs import saved, start

from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.loaded_run import open_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    start(folder, "LinearGaussian-v0")
    return folder


@pytest.fixture
def folder(whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy that may be damaged."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_whole_run_is_read_whole(whole: pathlib.Path) -> None:
    state = saved(whole)
    assert state.transitions is not None
    assert state.posterior is not None
    with open_run(whole) as run:
        assert not run.missing
        assert run.name == "run"
        assert run.episodes == [0, 1, 2]
        assert len(run.episode(1)) == 50
        assert [row["episode"] for row in run.metrics] == [0, 1, 2]
        assert [row["num_fitted"] for row in run.metrics] == [50, 100, 150]
        assert run.evaluation is not None
        assert sorted(set(run.evaluation.episode.tolist())) == [0, 1]
        assert run.unseen is run.evaluation
        assert run.final is not None
        assert run.final.num_fitted == 150
        assert run.fit["losses"].shape == (6,)
        draws = [
            p.sample(3, generator=torch.Generator().manual_seed(1)) for p in (run.final.posterior, state.posterior)
        ]
        assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])


def test_what_was_known_at_each_episode(whole: pathlib.Path) -> None:
    with open_run(whole) as run:
        assert run.transitions is not None
        state, action = run.transitions.state[None, :1], run.transitions.action[:1]
        assert run.knowledge_before(0) is None
        first, last = run.knowledge_before(1), run.knowledge_after(2)
        assert first is not None
        assert last is not None
        assert run.final is not None
        assert (first.num_fitted, last.num_fitted) == (50, 150)
        a, b, c = (
            k.dynamics.predict(k.posterior.sample(1, generator=run.generator("test")), state, action)
            for k in (first, last, run.final)
        )
        assert not torch.equal(a[0], b[0])
        assert torch.equal(b[0], c[0])
        assert run.knowledge_after(7) is None
        with pytest.raises(KeyError, match="no transitions of episode 7"):
            run.episode(7)


def test_a_run_that_has_not_ended_shows_its_newest_snapshot(folder: pathlib.Path) -> None:
    names = ("transitions.npz", "evaluation.npz", "posterior/posterior.safetensors", "posterior/fit.safetensors")
    for name in (*names, "evaluation.json"):
        (folder / name).unlink()
    with open_run(folder) as run:
        assert run.final is not None
        assert run.final.num_fitted == 150
        assert run.transitions is not None
        text = "\n".join(run.missing)
        assert "transitions.npz cannot be read: it is not there; the transitions are those of the last check" in text
        assert "there are no evaluation episodes: the run has not been evaluated yet" in text
        assert "fit.safetensors cannot be read" in text
        assert "since the run has not ended: what it knew after episode 2 is shown" in text


def test_a_finished_run_that_lost_its_posterior(folder: pathlib.Path) -> None:
    (folder / "posterior" / "posterior.safetensors").unlink()
    with open_run(folder) as run:
        assert run.missing == ("posterior.safetensors is missing: what it knew after episode 2 is shown",)


def test_of_a_checkpoint_alone_the_posterior_is_shown(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "posterior")
    state = saved(folder)
    assert state.posterior is not None
    with open_run(folder) as run:
        assert "posterior.safetensors is missing: the posterior of the last checkpoint is shown" in run.missing
        assert run.final is not None
        assert run.final.num_fitted == 150
        draws = [
            p.sample(2, generator=torch.Generator().manual_seed(1)) for p in (run.final.posterior, state.posterior)
        ]
        assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])


def test_a_posterior_of_another_dynamics_is_named(folder: pathlib.Path) -> None:
    """As of an older program, which did not learn what this one does."""
    config = (folder / "config.yaml").read_text()
    changed = re.sub(r"noise: heteroscedastic", "noise: homoscedastic", config)
    assert changed != config
    (folder / "config.yaml").write_text(changed)
    with open_run(folder) as run:
        assert run.final is None
        assert run.knowledge_after(0) is None
        assert "posterior.safetensors has other parameters than the dynamics of config.yaml" in " ".join(run.missing)


def test_rows_that_are_not_finite_are_counted(folder: pathlib.Path) -> None:
    with np.load(folder / "transitions.npz") as file:
        arrays = dict(file)
    arrays["next_state"][[4, 9], 1] = np.nan
    arrays["reward"][9] = np.inf
    np.savez(folder / "transitions.npz", **arrays)
    with pytest.raises(ValueError, match="not finite"):
        Transitions.load(folder / "transitions.npz")
    with open_run(folder) as run:
        assert run.transitions is not None
        assert len(run.transitions) == 148
        text = "\n".join(run.missing)
        assert "next_state is NaN or infinite in 2 of 150 rows, first in row 4" in text
        assert "reward is NaN or infinite in 1 of 150 rows, first in row 9" in text
        # What the posterior had learned from is counted in the file's rows, and those in front of it are fewer now.
        known = run.knowledge_after(0)
        assert known is not None
        assert known.num_fitted == 48


def test_lines_of_metrics_that_cannot_be_read_are_counted(folder: pathlib.Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"return": None}
    (folder / "metrics.jsonl").write_text("\n".join([json.dumps(first), lines[1], lines[2][:20], "7"]))
    with open_run(folder) as run:
        assert len(run.metrics) == 2
        assert "metrics.jsonl: 2 of 4 lines cannot be read and are left out" in run.missing
        assert "metrics.jsonl: 1 of 2 episodes have no finite return" in run.missing


def test_an_environment_that_is_not_there(folder: pathlib.Path) -> None:
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("LinearGaussian-v0", "nowhere:Gone-v0"))
    with open_run(folder) as run:
        assert run.builder is None
        assert run.final is None
        assert run.transitions is not None
        assert any("environment cannot be made here" in sentence for sentence in run.missing)


@pytest.mark.parametrize(
    "name", ["transitions.npz", "evaluation.npz", "posterior/posterior.safetensors", "posterior/fit.safetensors"]
)
def test_a_damaged_file_is_named_and_the_rest_is_there(folder: pathlib.Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with open_run(folder) as run:
        assert len(run.metrics) == 3
        assert len(run.missing) == 1
        assert "cannot be read" in run.missing[0]
        assert pathlib.Path(name).name in run.missing[0] or "posterior" in run.missing[0]


def test_what_is_no_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"), open_run(tmp_path):
        pass


def test_its_random_numbers_depend_on_the_purpose_alone(whole: pathlib.Path) -> None:
    with open_run(whole) as run:
        a, b, c = (torch.rand(3, generator=run.generator(purpose)) for purpose in ("map", "map", "fan"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
