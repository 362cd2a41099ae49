"""The folder of a run: its name, its configuration, and its metrics as JSON lines and TensorBoard events."""

import contextlib
import datetime
import itertools
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TextIO

from bayes_mbrl.config import Config, load, record
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.yaml_subset import read_mapping

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RUNS = pathlib.Path("runs")


def new_run_folder(out: pathlib.Path | None, config: Config, *, command: str = "") -> pathlib.Path:
    """Make the folder `out`, or a new one below `runs`, and write the configuration into it.

    Raises UserError when `out` exists and is not an empty folder, or when it cannot be written.
    """
    folder = _named(config) if out is None else out
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty: choose another --out, or go on with bayes-mbrl resume {out}")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=out is not None)
        write_text(folder / "config.yaml", record(config, command))
    return folder


def load_run(folder: pathlib.Path, *, needs_environment: bool = True) -> Config:
    """The configuration of a run that was started before. Raises UserError when `folder` holds none.

    To look at a run, its environment need not be there.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: name the folder of a run"
        )
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml")
    return load(folder / "config.yaml", needs_environment=needs_environment)


def replace_config(folder: pathlib.Path, config: Config) -> None:
    """Record another configuration of a run that goes on; the command that started it stays in the file."""
    recorded, _ = read_mapping(folder / "config.yaml")
    with writing(folder):
        write_text(folder / "config.yaml", record(config, str(recorded.get("command", ""))))


class MetricsLog:
    """Metrics of a run, one mapping an episode, in `metrics.jsonl` and as TensorBoard events in `tensorboard/`.

    What is there already is replaced by `so_far`, the metrics of the checkpoint that the run goes on from: episodes
    after it are done again. Every line is complete on the disk before the next step of the run.
    """

    def __init__(self, folder: pathlib.Path, so_far: Iterable[Mapping[str, Any]] = ()) -> None:
        self._path = folder / "metrics.jsonl"
        lines = [_line(metrics) for metrics in so_far]
        with writing(self._path):
            write_text(self._path, "".join(lines))
            self._file: TextIO = self._path.open("a", encoding="utf-8")
            self._events = _summary_writer(folder / "tensorboard", purge_step=len(lines) or None)
        self._num_episodes = len(lines)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of the next episode."""
        with writing(self._path):
            self._file.write(_line(metrics))
            self._file.flush()
            for name, value in metrics.items():
                if isinstance(value, int | float) and name != "episode":
                    self._events.add_scalar(name, value, global_step=self._num_episodes)
            self._events.flush()
        self._num_episodes += 1

    def close(self) -> None:
        """Close both files."""
        with writing(self._path), contextlib.closing(self._file), contextlib.closing(self._events):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*([UserError] if kind else [])):  # a full disk fails twice, the first one tells more
            self.close()


def _named(config: Config) -> pathlib.Path:
    """`runs/<time>-<environment>-<method>`, see `Config.method`, with a counter when that is taken."""
    words = (config.env.rpartition("/")[2], *config.method)
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-.")[:60] for word in words)
    stem = "-".join((f"{datetime.datetime.now():%Y%m%d-%H%M%S}", *parts))
    names = itertools.chain([stem], (f"{stem}-{count}" for count in itertools.count(2)))
    return next(RUNS / name for name in names if not (RUNS / name).exists())


def _line(metrics: Mapping[str, Any]) -> str:
    """One line of JSON, in which NaN and infinity, which JSON lacks, are null, in lists too."""
    return json.dumps(_finite(metrics), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary_writer(folder: pathlib.Path, purge_step: int | None) -> "SummaryWriter":
    """TensorBoard's writer, which hides earlier events from `purge_step` on. Imported late: it takes a second."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)
