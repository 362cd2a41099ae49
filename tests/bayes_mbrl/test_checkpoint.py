import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor

from bayes_mbrl import checkpoint
from bayes_mbrl.checkpoint import RunState, has_checkpoint, load_checkpoint, save_checkpoint
from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.base import Posterior, Theta


@dataclasses.dataclass(frozen=True, eq=False)
class _Posterior(Posterior):
    kind: ClassVar[str] = "test"
    loc: Tensor

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        return {"loc": self.loc.expand(n, -1)}

    def tensors(self) -> dict[str, Tensor]:
        return {"loc": self.loc}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(tensors["loc"])


KINDS = {"test": _Posterior}


def _state(num_rows: int = 7, next_episode: int = 2) -> RunState:
    generator = torch.Generator().manual_seed(next_episode)
    state, action = torch.randn(num_rows, 3, generator=generator), torch.randn(num_rows, 2, generator=generator)
    transitions = Transitions(
        state, action, state[:, 0], state + 1, torch.arange(num_rows) == 3, torch.arange(num_rows) // 4
    )
    metrics: list[dict[str, Any]] = [{"episode": 0, "return": -1 / 3, "loss": None, "phase": "base"}]
    return RunState(
        transitions, _Posterior(action[:, 0].clone()), metrics, next_episode, faults_in_a_row=1, num_fitted=5
    )


def _assert_same(a: RunState, b: RunState) -> None:
    assert a.transitions is not None
    assert b.transitions is not None
    for name, tensor in a.transitions.tensors().items():
        assert torch.equal(tensor, b.transitions.tensors()[name])
        assert tensor.dtype == b.transitions.tensors()[name].dtype
    assert isinstance(a.posterior, _Posterior)
    assert isinstance(b.posterior, _Posterior)
    assert torch.equal(a.posterior.loc, b.posterior.loc)
    assert dataclasses.replace(a, transitions=None, posterior=None) == dataclasses.replace(
        b, transitions=None, posterior=None
    )


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(entry.name for entry in (folder / "checkpoint").iterdir())


def test_what_is_saved_is_loaded(tmp_path: pathlib.Path) -> None:
    assert not has_checkpoint(tmp_path)
    save_checkpoint(tmp_path, _state())
    assert has_checkpoint(tmp_path)
    _assert_same(load_checkpoint(tmp_path, KINDS), _state())


def test_a_run_without_data_and_posterior_yet(tmp_path: pathlib.Path) -> None:
    empty = RunState(None, None, [], 0)
    save_checkpoint(tmp_path, empty)
    assert load_checkpoint(tmp_path, {}) == empty


def test_the_newest_is_loaded_and_only_one_before_it_is_kept(tmp_path: pathlib.Path) -> None:
    for next_episode in range(1, 5):
        save_checkpoint(tmp_path, _state(next_episode=next_episode))
    assert _names(tmp_path) == ["000003", "000004", "latest"]
    _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=4))


def test_leftovers_of_a_kill_harm_nothing_and_go_away(tmp_path: pathlib.Path) -> None:
    save_checkpoint(tmp_path, _state(next_episode=1))
    shutil.copytree(tmp_path / "checkpoint/000001", tmp_path / "checkpoint/000002")  # renamed, pointer not yet moved
    (tmp_path / "checkpoint/000003.partial").mkdir()
    (tmp_path / "checkpoint/.latest.partial").write_text("0000")
    _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=1))
    save_checkpoint(tmp_path, _state(next_episode=5))
    assert _names(tmp_path) == ["000001", "000003", "latest"]
    _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=5))


def test_no_checkpoint(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"holds no checkpoint: start it anew with bayes-mbrl run --config"):
        load_checkpoint(tmp_path, KINDS)


@pytest.mark.parametrize("file", ["transitions.npz", "posterior.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damage_is_found_and_the_way_out_is_named(tmp_path: pathlib.Path, file: str, damage: str) -> None:
    save_checkpoint(tmp_path, _state(next_episode=1))
    save_checkpoint(tmp_path, _state(next_episode=2))
    path = tmp_path / "checkpoint/000002" / file
    data = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(data[:-20])
        case "flipped":
            path.write_bytes(
                data.replace(b'"next_episode": 2', b'"next_episode": 3') if file == "state.json" else _flip(data)
            )
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"000002 is damaged .*write 000001 into .*latest") as caught:
        load_checkpoint(tmp_path, KINDS)
    assert "\n" not in str(caught.value)
    assert damage != "flipped" or f"({file} was changed after it was written)" in str(caught.value)
    (tmp_path / "checkpoint/latest").write_text("000001")
    _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=1))


def _flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def test_the_only_checkpoint_is_damaged(tmp_path: pathlib.Path) -> None:
    save_checkpoint(tmp_path, _state())
    (tmp_path / "checkpoint/000001/state.json").write_text("[]")
    with pytest.raises(UserError, match="start anew with bayes-mbrl run --config"):
        load_checkpoint(tmp_path, KINDS)
    shutil.rmtree(tmp_path / "checkpoint/000001")
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(tmp_path, KINDS)


def test_another_format_says_which_and_what_to_do(tmp_path: pathlib.Path) -> None:
    save_checkpoint(tmp_path, _state())
    path = tmp_path / "checkpoint/000001/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 7}))
    with pytest.raises(UserError, match=rf"is of format 7, this program reads format {checkpoint.FORMAT}: go on with"):
        load_checkpoint(tmp_path, KINDS)


@pytest.mark.parametrize("text", ["", "../../etc", "4", "00000x"])
def test_a_pointer_to_nowhere(tmp_path: pathlib.Path, text: str) -> None:
    save_checkpoint(tmp_path, _state())
    (tmp_path / "checkpoint/latest").write_text(text)
    with pytest.raises(UserError, match=r"should name a checkpoint, got .*: write one of 000001 into it"):
        load_checkpoint(tmp_path, KINDS)


def test_a_posterior_of_unknown_kind(tmp_path: pathlib.Path) -> None:
    save_checkpoint(tmp_path, _state())
    with pytest.raises(UserError, match="kind 'test'; known kinds"):
        load_checkpoint(tmp_path, {})


@pytest.mark.parametrize("where", ["save_posterior", "write_text", "flush_to_disk"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission")],
)
def test_a_disk_that_takes_no_more_leaves_the_checkpoint_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, reason: str
) -> None:
    save_checkpoint(tmp_path, _state(next_episode=1))

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, where, fail)
        with pytest.raises(
            UserError, match=rf"cannot write .*{reason}.*; the checkpoint before it, .*000001, is intact"
        ):
            save_checkpoint(tmp_path, _state(next_episode=2))
    assert _names(tmp_path) == ["000001", "latest"]
    _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=1))


def test_stopped_just_after_the_pointer_moved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, _state(next_episode=1))
    write = checkpoint.write_text

    def interrupted(path: pathlib.Path, text: str) -> None:
        write(path, text)
        if path.name == "latest":
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, _state(next_episode=2))
    _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=2))


@contextlib.contextmanager
def _tiny_disk(path: pathlib.Path, options: str) -> Iterator[None]:
    """A real file system of a few kilobytes; skips the test, and says so, where mounting is not permitted."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: mounting a tiny disk is not permitted here ({mounted.stderr.decode().strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="NOT TESTED: no command `mount` on this system")
def test_a_real_full_disk(tmp_path: pathlib.Path) -> None:
    with _tiny_disk(tmp_path, "size=64k"):
        save_checkpoint(tmp_path, _state(next_episode=1))
        for too_large in (
            dataclasses.replace(_state(), transitions=_state(num_rows=20_000).transitions),
            dataclasses.replace(_state(), posterior=_Posterior(torch.zeros(100_000))),
        ):
            with pytest.raises(UserError, match=r"the disk is full; the checkpoint before it, .*000001, is intact"):
                save_checkpoint(tmp_path, too_large)
            assert _names(tmp_path) == ["000001", "latest"]
            _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=1))


@pytest.mark.skipif(shutil.which("mount") is None, reason="NOT TESTED: no command `mount` on this system")
def test_a_real_read_only_disk(tmp_path: pathlib.Path) -> None:
    with _tiny_disk(tmp_path, "size=1m"):
        save_checkpoint(tmp_path, _state(next_episode=1))
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(UserError, match=r"the disk is read-only; the checkpoint before it, .*000001, is intact"):
            save_checkpoint(tmp_path, _state(next_episode=2))
        _assert_same(load_checkpoint(tmp_path, KINDS), _state(next_episode=1))


_SAVE_FOREVER = """
import itertools, pathlib, sys, torch
from bayes_mbrl.checkpoint import RunState, save_checkpoint
from bayes_mbrl.data import Transitions
print("ready", flush=True)
for n in itertools.count(1):
    rows = torch.full((200, 2), float(n))
    data = Transitions(rows, rows, rows[:, 0], rows, rows[:, 0] < 0, rows[:, 0].long())
    save_checkpoint(pathlib.Path(sys.argv[1]), RunState(data, None, [{"n": n}], n))
"""


def test_killed_at_any_point_a_whole_checkpoint_is_there(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _SAVE_FOREVER, tmp_path], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        while not has_checkpoint(tmp_path):
            time.sleep(0.01)
        for pause in (0.05, 0.033, 0.071):  # stopped, read as if killed, continued
            time.sleep(pause)
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            shutil.copytree(tmp_path, copy := tmp_path.with_name(f"copy{pause}"))
            process.send_signal(signal.SIGCONT)
            state = load_checkpoint(copy, {})
            assert state.transitions is not None
            assert state.metrics == [{"n": state.next_episode}]
            assert bool((state.transitions.state == state.next_episode).all())
        process.kill()
    before = load_checkpoint(tmp_path, {}).next_episode
    save_checkpoint(tmp_path, _state())
    assert before >= 1
    assert len(_names(tmp_path)) == 3
