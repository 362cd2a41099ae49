"""Runs with tiny budgets, and what must be equal of two of them."""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from bayes_mbrl import experiment
from bayes_mbrl.checkpoint import RunState, load_checkpoint
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.fit_record import load_tensors
from bayes_mbrl.inference.base import load_posterior
from bayes_mbrl.progress import Silent
from bayes_mbrl.registry import posterior_kinds
from bayes_mbrl.run_folder import load_run, new_run_folder
from bayes_mbrl.snapshots import find_snapshots

TINY = (
    "num_episodes=3", "num_evaluation_episodes=2", "planner.horizon=2", "planner.num_candidates=6",
    "rollout.num_theta=3",
)  # fmt: skip
TINY_CEM = ("planner=cem", "planner.num_elites=2", "planner.num_iterations=2")
TINY_NETWORK = ("dynamics=network", "dynamics.hidden=[4]", "posterior.num_steps=6")
TINY_NUTS = (
    "dynamics.hidden=[4]", "posterior.num_chains=2", "posterior.num_warmup=8", "posterior.num_draws=4",
    "posterior.max_tree_depth=4", "posterior.num_variational_steps=6",
)  # fmt: skip


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.phases: list[str] = []
        self.episodes: list[dict[str, Any]] = []
        self.paths: dict[str, pathlib.Path] = {}
        self.summary: dict[str, object] = {}

    def phase(self, name: str, total: int | None) -> None:
        self.phases.append(name)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def episode(self, metrics: Any) -> None:
        self.episodes.append(dict(metrics))

    def finished(self, summary: Any, paths: Any) -> None:
        self.summary, self.paths = dict(summary), dict(paths)


def overrides(*more: str) -> list[str]:
    """`key=value` of a tiny run, with `more` that win over them; settings of other choices are left out."""
    chosen, result = _pairs(more), _pairs(TINY)
    if chosen.get("planner") == "exhaustive":
        del result["planner.num_candidates"]
    if (planner := chosen.get("planner", "cem")) in ("cem", "icem"):
        result |= _pairs(TINY_CEM) | {"planner": planner}
    if chosen.get("posterior") == "nuts":
        result |= _pairs(TINY_NUTS)
    elif chosen.get("dynamics") == "physics":
        result["posterior.num_steps"] = "6"
    elif chosen.get("posterior") != "exact-linear":
        result |= _pairs(TINY_NETWORK)
    return [f"{key}={value}" for key, value in {**result, **chosen}.items()]


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def configure(env: str, *more: str) -> Config:
    """The configuration of a tiny run."""
    return resolve(overrides(*more), options={"env": env})


def start(folder: pathlib.Path, env: str, *more: str, observer: Recorder | None = None) -> RunState:
    """Run it in a new folder."""
    config = configure(env, *more)
    return experiment.run_experiment(config, new_run_folder(folder, config), observer=observer or Recorder())


def resume(folder: pathlib.Path, episodes: int | None = None, observer: Recorder | None = None) -> RunState:
    """Resume it."""
    return experiment.resume_experiment(folder, num_episodes=episodes, observer=observer or Recorder())


def saved(folder: pathlib.Path) -> RunState:
    """The newest checkpoint."""
    return load_checkpoint(folder, posterior_kinds(load_run(folder).posterior.name))


def state_numbers(state: RunState) -> dict[str, Any]:
    """All that a run knows, comparable bit by bit, without times."""
    rest = {name: getattr(state, name) for name in ("next_episode", "faults_in_a_row", "num_fitted")}
    return {
        **rest,
        "metrics": [_without_times(metrics) for metrics in state.metrics],
        "transitions": None if state.transitions is None else _bits(state.transitions.tensors()),
        "posterior": None if state.posterior is None else _bits(state.posterior.tensors()),
        "fit": _bits(state.fit),
        "learned": _bits(state.learned),
    }


def numbers(folder: pathlib.Path) -> dict[str, Any]:
    """All numbers in the folder of a finished run, comparable bit by bit, without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kinds = posterior_kinds(load_run(folder).posterior.name)
    posterior = folder / "posterior" / "posterior.safetensors"
    tensors = [posterior.with_name("fit.safetensors"), folder / "learned.safetensors"]
    return {
        "checkpoint": state_numbers(saved(folder)),
        "metrics": [_without_times(json.loads(line)) for line in lines],
        "evaluation": json.loads((folder / "evaluation.json").read_text()),
        "transitions": _bits(Transitions.load(folder / "transitions.npz").tensors()),
        "posterior": _bits(load_posterior(posterior, kinds).tensors()) if posterior.exists() else None,
        **{path.stem: _bits(load_tensors(path)) for path in tensors if path.exists()},
        "evaluation episodes": _bits(Transitions.load(folder / "evaluation.npz").tensors()),
        "snapshots": {
            number: _bits(load_posterior(path, kinds).tensors()) for number, path in find_snapshots(folder).items()
        },
    }


def _without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not re.search("seconds", key)}


def _bits(tensors: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(t.dtype), tuple(t.shape), t.numpy().tobytes()) for name, t in sorted(tensors.items())}
