"""Checkpoints: a new folder each time, then a pointer to it, so that a kill at any point leaves a whole one.

`checkpoint/latest` names the newest of `checkpoint/000001`, `checkpoint/000002`, ...; that one and the one before are
kept. A checkpoint holds `transitions.npz`, `posterior.safetensors`, `fit.safetensors`, `learned.safetensors`, as far as
there is anything to hold, and `state.json`, which has the sizes and SHA-256 sums of the others and its own. No pickle.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import flush_to_disk, write_text, writing
from bayes_mbrl.fit_record import load_tensors, save_tensors
from bayes_mbrl.inference.base import Posterior, load_posterior, save_posterior

FORMAT = 1
"""Version of what is written; to be raised when an older program could not read it."""

_TRANSITIONS, _POSTERIOR, _STATE = "transitions.npz", "posterior.safetensors", "state.json"
_FIT, _LEARNED = "fit.safetensors", "learned.safetensors"


@dataclasses.dataclass(frozen=True)
class RunState:
    """What a run knows between two steps of its loop."""

    transitions: Transitions | None
    posterior: Posterior | None
    metrics: list[dict[str, Any]]
    """One for every episode, of numbers, text and None."""
    next_episode: int
    faults_in_a_row: int = 0
    num_fitted: int = 0
    """The posterior has learned from this many of the first transitions."""
    fit: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """What the last fit told of itself: see fit_record.py."""
    learned: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """What the algorithm learns beside the posterior: see `Learner.tensors`."""


def save_checkpoint(folder: pathlib.Path, state: RunState) -> None:
    """Write `state` into the run's folder; the checkpoint before it stays.

    Raises UserError when the disk is full or not writable; then all is as it was before.
    """
    root = folder / "checkpoint"
    previous = _latest(root)
    kept = f"the checkpoint before it, {root / previous}, is intact" if previous else "there was none before it"
    with writing(root, kept):
        root.mkdir(exist_ok=True)
        name = f"{max(map(int, _numbered(root)), default=0) + 1:06d}"
        partial = root / f"{name}.partial"
        try:
            _write(partial, state)
            partial.rename(root / name)
            flush_to_disk(root)
            write_text(root / "latest", name + "\n")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if _latest(root) != name:
                shutil.rmtree(root / name, ignore_errors=True)
            raise
    for entry in root.iterdir():
        if entry.is_dir() and entry.name not in (name, previous):
            shutil.rmtree(entry, ignore_errors=True)


def load_checkpoint(folder: pathlib.Path, kinds: Mapping[str, type[Posterior]]) -> RunState:
    """The newest checkpoint of the run; `kinds` as for `load_posterior`.

    Raises UserError, saying what to do, when there is none, when it is damaged, or of another version.
    """
    root = folder / "checkpoint"
    name = _latest(root)
    if name is None:
        raise UserError(
            f"{folder} holds no checkpoint: start it anew with bayes-mbrl run --config {folder}/config.yaml"
        )
    with _damage(root, name, folder):
        document = json.loads((root / name / _STATE).read_text(encoding="utf-8"))
        _check_format(document, root / name)
        content = document["content"]
        if _sum(_canonical(content)) != document["sha256"]:
            raise ValueError(f"{_STATE} was changed after it was written")
        for file, expected in content["files"].items():
            _check_file(root / name / file, expected)
        files = content["files"]
        return RunState(
            Transitions.load(root / name / _TRANSITIONS) if _TRANSITIONS in files else None,
            load_posterior(root / name / _POSTERIOR, kinds) if _POSTERIOR in files else None,
            **content["state"],
            fit=load_tensors(root / name / _FIT) if _FIT in files else {},
            learned=load_tensors(root / name / _LEARNED) if _LEARNED in files else {},
        )


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Whether a run got as far as to write one."""
    return _latest(folder / "checkpoint") is not None


def _write(partial: pathlib.Path, state: RunState) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if state.transitions is not None:
        state.transitions.save(partial / _TRANSITIONS)
    if state.posterior is not None:
        save_posterior(state.posterior, partial / _POSTERIOR)
    for tensors, file in ((state.fit, _FIT), (state.learned, _LEARNED)):
        if tensors:
            save_tensors(tensors, partial / file)
    files = {}
    for path in sorted(partial.iterdir()):
        flush_to_disk(path)
        data = path.read_bytes()
        files[path.name] = {"bytes": len(data), "sha256": _sum(data)}
    rest = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if field.name not in ("transitions", "posterior", "fit", "learned")
    }
    content = {"files": files, "state": rest}
    document = {"format": FORMAT, "sha256": _sum(_canonical(content)), "content": content}
    write_text(partial / _STATE, json.dumps(document))  # an indent is written in Python, far slower


def _latest(root: pathlib.Path) -> str | None:
    """The name in the pointer; None when there is no pointer."""
    try:
        name = (root / "latest").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{root / 'latest'} cannot be read: {error}") from error
    if not re.fullmatch(r"\d{6,}", name):
        there = ", ".join(_numbered(root)) or "none"
        raise UserError(f"{root / 'latest'} should name a checkpoint, got {name[:40]!r}: write one of {there} into it")
    return name


def _numbered(root: pathlib.Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if re.fullmatch(r"\d{6,}", entry.name))


@contextlib.contextmanager
def _damage(root: pathlib.Path, name: str, folder: pathlib.Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint causes into a UserError that says how to go on."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        older = [other for other in _numbered(root) if other < name]
        way_out = f"start anew with bayes-mbrl run --config {folder}/config.yaml"
        if older:
            way_out = f"to go on from the one before, write {older[-1]} into {root / 'latest'}"
        raise UserError(f"the checkpoint {root / name} is damaged ({what}); {way_out}") from error


def _check_format(document: Any, path: pathlib.Path) -> None:
    if (found := document["format"]) != FORMAT:
        raise UserError(
            f"the checkpoint {path} is of format {found}, this program reads format {FORMAT}: go on with the version "
            f"of bayes_mbrl that wrote it (see versions in {path.parent.parent / 'config.yaml'}), or start anew"
        )


def _check_file(path: pathlib.Path, expected: Mapping[str, Any]) -> None:
    data = path.read_bytes()
    if len(data) != expected["bytes"]:
        raise ValueError(f"{path.name} has {len(data)} bytes, {expected['bytes']} were written")
    if _sum(data) != expected["sha256"]:
        raise ValueError(f"{path.name} was changed after it was written")


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
