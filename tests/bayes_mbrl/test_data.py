import dataclasses
import pathlib
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from bayes_mbrl.data import Transitions, evenly_spaced, split_by_block


def assert_equal(one: Transitions, other: Transitions) -> None:
    """Bit for bit, and of the same types."""
    for name, tensor in one.tensors().items():
        got = other.tensors()[name]
        assert got.dtype == tensor.dtype
        assert got.numpy().tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("field", ["state", "action", "reward", "next_state"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_named_with_field_and_first_row(
    transitions: Transitions, field: str, bad: float
) -> None:
    values = getattr(transitions, field).clone()
    values[[7, 11]] = values[[7, 11]] * 0 + bad
    with pytest.raises(ValueError, match=rf"^{field} is not finite in 2 rows, first in row 7: "):
        dataclasses.replace(transitions, **{field: values})


def test_one_bad_number_of_a_row_is_enough(transitions: Transitions) -> None:
    state = transitions.state.clone()
    state[22, 1] = torch.nan
    with pytest.raises(ValueError, match=r"state is not finite in 1 rows, first in row 22: .*nan"):
        dataclasses.replace(transitions, state=state)


@pytest.mark.parametrize("field", ["action", "reward", "terminated", "episode"])
def test_another_number_of_rows_is_named(transitions: Transitions, field: str) -> None:
    with pytest.raises(ValueError, match=rf"23.*{field}|{field}.*23"):
        dataclasses.replace(transitions, **{field: getattr(transitions, field)[:-1]})


@pytest.mark.parametrize("field", ["reward", "terminated", "episode"])
def test_a_column_is_not_a_list_of_numbers(transitions: Transitions, field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*\[23, 1\]"):
        dataclasses.replace(transitions, **{field: getattr(transitions, field)[:, None]})


@pytest.mark.parametrize(
    "change",
    [{"state": torch.zeros(23)}, {"action": torch.zeros(23)}, {"next_state": torch.zeros(23, 2)}],
)
def test_wrong_shapes_are_shown(transitions: Transitions, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"need state \[N, S\], action \[N, A\] and next_state \[N, S\], got shapes"):
        dataclasses.replace(transitions, **change)


def test_terminated_is_bool(transitions: Transitions) -> None:
    with pytest.raises(ValueError, match=r"terminated as torch.bool, got torch.float64"):
        dataclasses.replace(transitions, terminated=transitions.terminated.double())


def test_slices_and_masks_take_the_same_rows_of_every_field(transitions: Transitions) -> None:
    part = transitions[3:7]
    assert len(part) == 4
    for name, tensor in transitions.tensors().items():
        assert torch.equal(part.tensors()[name], tensor[3:7])
    assert_equal(transitions[torch.arange(23) >= 20], transitions[20:])
    assert len(transitions[:0]) == 0


def test_concatenation_undoes_slicing(transitions: Transitions) -> None:
    assert_equal(
        Transitions.concatenate([transitions[:5], transitions[5:5], transitions[5:6], transitions[6:]]), transitions
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_saved_is_loaded_bit_for_bit(
    transitions: Transitions, tmp_path: pathlib.Path, dtype: torch.dtype
) -> None:
    fields = {name: t.to(dtype) if t.is_floating_point() else t for name, t in transitions.tensors().items()}
    fields["reward"][:2] = torch.tensor([-0.0, 1e-40], dtype=dtype)
    saved = Transitions(**fields)
    saved.save(tmp_path / "d.npz")
    assert_equal(Transitions.load(tmp_path / "d.npz"), saved)
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_said_to_be_one(transitions: Transitions, tmp_path: pathlib.Path, share: float) -> None:
    path = tmp_path / "d.npz"
    transitions.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"d\.npz is not a complete file of transitions"):
        Transitions.load(path)


@pytest.mark.parametrize("missing", ["state", "episode"])
def test_a_missing_field_is_named(transitions: Transitions, tmp_path: pathlib.Path, missing: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **{name: t.numpy() for name, t in transitions.tensors().items() if name != missing})
    with pytest.raises(ValueError, match=rf"d\.npz is not a complete file of transitions: .*{missing}"):
        Transitions.load(path)


def test_pickles_are_never_read(transitions: Transitions, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "d.npz"
    arrays: dict[str, Any] = {name: t.numpy() for name, t in transitions.tensors().items()}
    np.savez(path, **{**arrays, "reward": np.array([None] * 23, dtype=object)})
    with pytest.raises(ValueError, match=r"allow_pickle=False"):
        Transitions.load(path)


def test_a_single_array_is_not_a_file_of_transitions(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"d\.npz is not a complete file of transitions"):
        Transitions.load(tmp_path / "d.npz")


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing_over(
    transitions: Transitions, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transitions.save(tmp_path / "d.npz")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "open", full_disk)
    with pytest.raises(OSError, match="No space left"):
        transitions[:3].save(tmp_path / "d.npz")
    monkeypatch.undo()
    assert_equal(Transitions.load(tmp_path / "d.npz"), transitions)
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]


def _episodes(*lengths: int) -> Transitions:
    """Rows that are numbered by their state."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    rows, nothing = torch.arange(float(len(episode)))[:, None], torch.zeros(len(episode))
    return Transitions(rows, rows, nothing, rows, nothing.bool(), episode)


def test_blocks_end_with_their_episode() -> None:
    """Lengths 7, 2 and 5 in blocks of 3: 0-2, 3-5, 6 | 7-8 | 9-11, 12-13; every third is held out."""
    training, held_out = split_by_block(_episodes(7, 2, 5), 3, 3)
    assert held_out.state[:, 0].tolist() == [6, 12, 13]
    assert training.state[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]


def test_a_row_stays_on_its_side_when_others_follow() -> None:
    whole = _episodes(7, 1, 9, 4)
    held_out = set(split_by_block(whole, 2, 4)[1].state[:, 0].tolist())
    for count in range(1, len(whole)):
        training, held = split_by_block(whole[:count], 2, 4)
        assert set(held.state[:, 0].tolist()) == {row for row in held_out if row < count}
        assert len(training) + len(held) == count
        assert len(training) > 0


@pytest.mark.parametrize(("every", "length"), [(1, 3), (2, 0)])
def test_blocks_that_cannot_be_are_refused(every: int, length: int) -> None:
    with pytest.raises(ValueError, match="need held_out_every >= 2 and block_length >= 1"):
        split_by_block(_episodes(4), every, length)


@pytest.mark.parametrize(("num", "most", "expected"), [(1, 5, [0]), (3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9])])
def test_evenly_spaced(num: int, most: int, expected: list[int]) -> None:
    assert evenly_spaced(num, most).tolist() == expected


def test_evenly_is_exact_for_many() -> None:
    """float32 has 24 bits."""
    assert int(evenly_spaced(100_000_001, 3)[-1]) == 100_000_000
