"""What a run believed after each of its episodes: `posterior/after-episode-0003.safetensors`.

Of a long run only every 2nd, 4th, 8th, ... episode is kept, and the last, so that a run's folder stays small.
"""

import contextlib
import pathlib
import re

from bayes_mbrl.analysis.atomic import atomic_file
from bayes_mbrl.files import writing
from bayes_mbrl.inference.base import Posterior, save_posterior

MAX_SNAPSHOTS = 32


def save_snapshot(folder: pathlib.Path, episode: int, posterior: Posterior) -> None:
    """Write the posterior after `episode`, and delete snapshots of earlier episodes that are too many."""
    path = folder / "posterior" / f"after-episode-{episode:04d}.safetensors"
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path) as temporary:
            save_posterior(posterior, temporary)
    stride = 1
    while episode // stride >= MAX_SNAPSHOTS:
        stride *= 2
    for number, old in find_snapshots(folder).items():
        if number % stride and number < episode:
            with contextlib.suppress(OSError):  # it only takes space
                old.unlink()


def find_snapshots(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Episode → file of the posterior after it, in order."""
    found = {
        int(match[1]): path
        for path in (folder / "posterior").glob("after-episode-*.safetensors")
        if (match := re.fullmatch(r"after-episode-(\d+)\.safetensors", path.name))
    }
    return dict(sorted(found.items()))
