"""Posteriors of past episodes: which are kept, and that they are what they were."""

import itertools
import pathlib

import torch

from bayes_mbrl.inference.base import load_posterior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.snapshots import MAX_SNAPSHOTS, find_snapshots, save_snapshot


def _save(folder: pathlib.Path, episode: int) -> None:
    save_snapshot(folder, episode, DrawsPosterior({"w": torch.full((2, 3), float(episode))}))


def test_a_snapshot_is_what_was_saved(tmp_path: pathlib.Path) -> None:
    _save(tmp_path, 3)
    posterior = load_posterior(find_snapshots(tmp_path)[3], {"draws": DrawsPosterior})
    assert isinstance(posterior, DrawsPosterior)
    assert posterior.draws["w"].tolist() == [[3.0] * 3] * 2


def test_a_long_run_keeps_few_evenly_spaced_and_the_last(tmp_path: pathlib.Path) -> None:
    for episode in range(3 * MAX_SNAPSHOTS + 2):
        _save(tmp_path, episode)
        kept = list(find_snapshots(tmp_path))
        assert kept[-1] == episode
        assert len(kept) <= MAX_SNAPSHOTS + 1
        assert len({b - a for a, b in itertools.pairwise(kept[:-1])}) <= 1
    assert kept == [*range(0, 3 * MAX_SNAPSHOTS + 1, 4), 3 * MAX_SNAPSHOTS + 1]


def test_which_are_kept_depends_on_the_last_episode_alone(tmp_path: pathlib.Path) -> None:
    """A run that is resumed writes an episode's snapshot again."""
    for episode in [*range(40), 38, 39]:
        _save(tmp_path, episode)
    assert list(find_snapshots(tmp_path)) == [*range(0, 39, 2), 39]


def test_other_files_are_not_snapshots(tmp_path: pathlib.Path) -> None:
    _save(tmp_path, 0)
    (tmp_path / "posterior" / "posterior.safetensors").write_bytes(b"")
    (tmp_path / "posterior" / ".after-episode-0001.partial.safetensors").write_bytes(b"")
    assert list(find_snapshots(tmp_path)) == [0]
    assert find_snapshots(tmp_path / "nowhere") == {}
