"""A run read back from its folder for analysis: as much of it as is there, and a sentence for all that is not.

Axes: N transitions, S state, A action.
"""

import contextlib
import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.fit_record import load_tensors
from bayes_mbrl.inference.base import Posterior, load_posterior, parameter_shapes
from bayes_mbrl.registry import posterior_kinds
from bayes_mbrl.run_folder import load_run
from bayes_mbrl.seeding import generator_for
from bayes_mbrl.snapshots import find_snapshots


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What a run believed at some time: p(θ | the first `num_fitted` transitions) and the dynamics θ belongs to."""

    posterior: Posterior
    dynamics: Dynamics
    num_fitted: int


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run's folder, read. What is None or empty is explained in `missing`."""

    folder: pathlib.Path
    config: Config
    builder: Builder | None
    """Makes agents and dynamics; None where the environment cannot be made here."""
    metrics: Sequence[Mapping[str, Any]]
    """A mapping for each training episode: see experiment.py. What was NaN is None."""
    transitions: Transitions | None
    """[N] of training, in the order in which they happened."""
    evaluation: Transitions | None
    """Of the evaluation episodes, which nothing was learned from."""
    final: Knowledge | None
    """At the end of the run."""
    fit: Mapping[str, Tensor]
    """What the last fit told of itself: see fit_record.py."""
    snapshots: Mapping[int, pathlib.Path]
    """Episode → the posterior after it."""
    missing: Sequence[str]
    """What is not there or cannot be used: a sentence each."""
    rows: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[N] where the transitions stood before rows that are not finite were left out."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of the S observed numbers, with units where they are known."""
        if self.builder is not None:
            return self.builder.environment.state_names
        return () if self.transitions is None else tuple(f"s[{i}]" for i in range(self.transitions.state.shape[1]))

    @property
    def episodes(self) -> list[int]:
        """Numbers of the training episodes there are transitions of."""
        return [] if self.transitions is None else sorted(set(self.transitions.episode.tolist()))

    @property
    def base_episodes(self) -> list[int]:
        """Numbers of those that are the base policy's; the first one where nothing says which they are."""
        named = [row.get("episode") for row in self.metrics if row.get("phase") == "base policy"]
        return [number for number in self.episodes if number in named] or self.episodes[:1]

    def episode(self, number: int) -> Transitions:
        """The transitions of one training episode. Raises KeyError where there is none."""
        if self.transitions is None or number not in self.episodes:
            raise KeyError(f"{self.name} has no transitions of episode {number}")
        return self.transitions[self.transitions.episode == number]

    @property
    def unseen(self) -> Transitions | None:
        """The evaluation episodes; where there are none, those of training that the posterior has not seen yet."""
        if self.evaluation is not None:
            return self.evaluation
        if self.transitions is None or self.final is None or self.final.num_fitted >= len(self.transitions):
            return None
        return self.transitions[self.final.num_fitted :]

    def knowledge_after(self, episode: int) -> Knowledge | None:
        """What was believed after a training episode; None where no snapshot of it is kept."""
        if episode not in self.snapshots or self.builder is None or self.transitions is None:
            return None
        fitted = self.transitions[: self._num_fitted(episode)]
        try:
            return _knowledge(self.builder, self.snapshots[episode], fitted)
        except (OSError, ValueError):
            return None

    def knowledge_before(self, episode: int) -> Knowledge | None:
        """What the agent acted by when the episode began; None for the base policy's, and where no snapshot is kept."""
        return self.knowledge_after(episode - 1)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of the analysis: the same each time, whatever else is analysed."""
        return generator_for(self.config.seed, "report", 2**32 + zlib.crc32(purpose.encode()))

    def _num_fitted(self, episode: int) -> int:
        assert self.transitions is not None
        recorded = [row.get("num_fitted") for row in self.metrics if row.get("episode") == episode]
        if recorded and isinstance(recorded[0], int):
            return int((self.rows < recorded[0]).sum())
        return int((self.transitions.episode <= episode).sum())


def without_unit(name: str) -> str:
    """ "angle (rad)" → "angle", for titles."""
    return name.partition(" (")[0]


@contextlib.contextmanager
def open_run(folder: pathlib.Path) -> Iterator[LoadedRun]:
    """Read what a run has left behind so far. Raises UserError where `folder` is no run at all."""
    config = load_run(folder, needs_environment=False).model_copy(update={"device": "cpu"})  # where it is looked at
    missing: list[str] = []
    with contextlib.ExitStack() as stack:
        builder = None
        try:
            builder = Builder(config, stack.enter_context(Environment(config.env)))
        except UserError as error:
            missing.append(f"the environment cannot be made here, so nothing is imagined: {error}")
        learns_model = config.algorithm.row.learns_model
        transitions, rows = _training(folder, missing)
        evaluation = None
        if config.num_evaluation_episodes:
            evaluation = _evaluation(folder, missing)
        run = LoadedRun(
            folder,
            config,
            builder,
            metrics=_metrics(folder / "metrics.jsonl", missing),
            transitions=transitions,
            evaluation=evaluation,
            final=None,
            fit=_fit(folder / "posterior" / "fit.safetensors", missing) if learns_model else {},
            snapshots=find_snapshots(folder),
            missing=(),
            rows=rows,
        )
        yield dataclasses.replace(run, final=_final(run, missing), missing=tuple(missing))


def _final(run: LoadedRun, missing: list[str]) -> Knowledge | None:
    """The posterior at the end; of a run that has not ended, that of the newest snapshot or of the last checkpoint."""
    if run.builder is None or run.transitions is None:
        return None
    if not run.builder.learns_model:
        return None
    path = run.folder / "posterior" / "posterior.safetensors"
    last = max(run.snapshots, default=-1)
    if not path.exists() and last >= 0:
        why = "" if (run.folder / "evaluation.json").exists() else ", since the run has not ended"
        missing.append(f"{path.name} is missing{why}: what it knew after episode {last} is shown")
        return run.knowledge_after(last)
    checkpoints = sorted((run.folder / "checkpoint").glob("[0-9]*/posterior.safetensors"))
    if not path.exists() and checkpoints:
        missing.append(f"{path.name} is missing: the posterior of the last checkpoint is shown")
        path = checkpoints[-1]
    fitted = run.transitions[: run._num_fitted(int(run.transitions.episode.max()))]
    try:
        return _knowledge(run.builder, path, fitted)
    except (OSError, ValueError) as error:
        missing.append(f"the posterior cannot be read, so nothing is predicted: {_reason(error)}")
        return None


def _knowledge(builder: Builder, path: pathlib.Path, fitted: Transitions) -> Knowledge:
    """The posterior saved there and its dynamics. Raises OSError or ValueError where one is not of the other."""
    posterior = load_posterior(path, posterior_kinds(builder.config.posterior.name))
    theta = posterior.sample(1, generator=torch.Generator())
    expected = parameter_shapes(builder.dynamics(fitted).model)
    if {name: value.shape[1:] for name, value in theta.items()} != expected:
        raise ValueError(
            f"{path.name} has other parameters than the dynamics of config.yaml: an older program made it, or one "
            "of the two was changed"
        )
    return Knowledge(posterior, builder.learned_dynamics(fitted, posterior), len(fitted))


def _transitions(path: pathlib.Path, missing: list[str]) -> tuple[Transitions | None, Tensor]:
    """All rows that are finite, and where they stood; the others are counted in `missing`."""
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:  # np.load takes other files too
            arrays = {field.name: torch.from_numpy(file[field.name]) for field in dataclasses.fields(Transitions)}
        sound = torch.ones(len(arrays["state"]), dtype=torch.bool)
        for name in ("state", "action", "reward", "next_state"):
            bad = ~torch.isfinite(arrays[name]).reshape(len(sound), -1).all(1)
            sound &= ~bad
            if bool(bad.any()):
                missing.append(
                    f"{path.name}: {name} is NaN or infinite in {int(bad.sum())} of {len(bad)} rows, first in row "
                    f"{int(bad.int().argmax())}; these rows are in no figure"
                )
        return Transitions(**{name: values[sound] for name, values in arrays.items()}), sound.nonzero().flatten()
    except Exception as error:  # a damaged file may cause anything
        missing.append(f"{path.name} cannot be read: {_reason(error)}")
        return None, torch.empty(0, dtype=torch.long)


def _training(folder: pathlib.Path, missing: list[str]) -> tuple[Transitions | None, Tensor]:
    """The run's own file, which is written at its end; without it, that of the newest checkpoint."""
    said: list[str] = []
    transitions, rows = _transitions(folder / "transitions.npz", said)
    candidates = sorted((folder / "checkpoint").glob("[0-9]*/transitions.npz"))
    if transitions is None and candidates:
        transitions, rows = _transitions(candidates[-1], said)
        if transitions is not None:
            said[0] += "; the transitions are those of the last checkpoint"
    missing += said
    return transitions, rows


def _evaluation(folder: pathlib.Path, missing: list[str]) -> Transitions | None:
    path = folder / "evaluation.npz"
    if not path.exists() and not (folder / "evaluation.json").exists():
        missing.append("there are no evaluation episodes: the run has not been evaluated yet")
        return None
    if not path.exists() and _evaluated_by_none(folder):
        return None
    return _transitions(path, missing)[0]


def _evaluated_by_none(folder: pathlib.Path) -> bool:
    """Whether evaluation.json says that there was no episode, as after `bayes-mbrl fit`: then none is missing."""
    try:
        return bool(json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["returns"] == [])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _metrics(path: pathlib.Path, missing: list[str]) -> list[dict[str, Any]]:
    """All lines that can be read; the others are counted in `missing`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        missing.append(f"{path.name} cannot be read, so there is no learning curve: {_reason(error)}")
        return []
    rows = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    if damaged := len(lines) - len(rows):
        missing.append(f"{path.name}: {damaged} of {len(lines)} lines cannot be read and are left out")
    if nameless := sum(row.get("return") is None for row in rows):
        missing.append(f"{path.name}: {nameless} of {len(rows)} episodes have no finite return")
    return rows


def _fit(path: pathlib.Path, missing: list[str]) -> dict[str, Tensor]:
    try:
        return load_tensors(path)
    except (OSError, ValueError) as error:
        missing.append(f"{path.name} cannot be read, so the fit's own statistics are not shown: {_reason(error)}")
        return {}


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    return f"{type(error).__name__}: {error}"
