"""Transitions (s, a, r, s'), checked when they are made. Axes: N data, S state, A action."""

import dataclasses
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.atomic import atomic_file


@dataclasses.dataclass(frozen=True)
class Transitions:
    """A batch of transitions in the environment's units.

    `terminated` says that s' is terminal; the end of an episode by a time limit (truncation) is not marked, since it
    says nothing about the dynamics.

    Raises ValueError, naming the field and the first bad row, when shapes do not match or a number is not finite.
    """

    state: Tensor
    """[N, S]"""
    action: Tensor
    """[N, A]"""
    reward: Tensor
    """[N]"""
    next_state: Tensor
    """[N, S]"""
    terminated: Tensor
    """[N] bool"""
    episode: Tensor
    """[N] int64: the number of the episode that the row belongs to"""

    def __post_init__(self) -> None:
        if self.state.ndim != 2 or self.action.ndim != 2 or self.next_state.shape != self.state.shape:
            raise ValueError(
                "need state [N, S], action [N, A] and next_state [N, S], got shapes "
                f"{list(self.state.shape)}, {list(self.action.shape)} and {list(self.next_state.shape)}"
            )
        if len(self.action) != len(self):
            raise ValueError(f"need {len(self)} rows as in state, got {len(self.action)} in action")
        for name in ("reward", "terminated", "episode"):
            if (got := getattr(self, name).shape) != (len(self),):
                raise ValueError(f"need {name} [{len(self)}], one number for each row of state, got shape {list(got)}")
        if self.terminated.dtype != torch.bool:
            raise ValueError(f"need terminated as torch.bool, got {self.terminated.dtype}")
        for name in ("state", "action", "reward", "next_state"):
            values = getattr(self, name)
            bad = ~torch.isfinite(values if values.ndim == 2 else values[:, None]).all(dim=1)
            if bool(bad.any()):
                row = int(bad.int().argmax())
                raise ValueError(
                    f"{name} is not finite in {int(bad.sum())} rows, first in row {row}: {values[row].tolist()}"
                )

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The transitions at these rows, in this order."""
        return dataclasses.replace(self, **{name: tensor[rows] for name, tensor in self.tensors().items()})

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """All batches, one after the other."""
        return cls(*(torch.cat([getattr(b, field.name) for b in batches]) for field in dataclasses.fields(cls)))

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def save(self, path: pathlib.Path) -> None:
        """Write an npz file, whole or not at all."""
        arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in self.tensors().items()}
        with atomic_file(path) as temporary:
            np.savez(temporary, **arrays)

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read what `save` wrote. Raises ValueError when the file is damaged or lacks a field."""
        try:
            with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:  # np.load takes other files too
                return cls(*(torch.from_numpy(file[field.name]) for field in dataclasses.fields(cls)))
        except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a complete file of transitions: {error}") from error


def evenly_spaced(num_rows: int, at_most: int) -> Tensor:
    """Up to `at_most` of the rows 0..num_rows − 1, evenly spaced, the first and the last among them: [n] int64."""
    return torch.linspace(0, num_rows - 1, min(num_rows, at_most), dtype=torch.float64).round().long()


def split_by_block(transitions: Transitions, held_out_every: int, block_length: int) -> tuple[Transitions, Transitions]:
    """(training, held-out): of the blocks of `block_length` rows of an episode, the last of which may be shorter,
    every `held_out_every`-th is held out, the first one never; blocks are counted over all episodes.

    For data of few episodes: a row resembles its neighbours, most of which lie in its own block. Rows that are
    appended leave the others on their side. Raises ValueError unless held_out_every >= 2 and block_length >= 1.
    """
    if held_out_every < 2 or block_length < 1:
        raise ValueError(f"need held_out_every >= 2 and block_length >= 1, got {held_out_every} and {block_length}")
    lengths = torch.unique_consecutive(transitions.episode, return_counts=True)[1]
    num_blocks = (lengths + block_length - 1) // block_length
    first_row, first_block = (
        torch.repeat_interleave(counts.cumsum(0) - counts, lengths) for counts in (lengths, num_blocks)
    )
    block = first_block + (torch.arange(len(transitions), device=lengths.device) - first_row) // block_length
    held_out = block % held_out_every == held_out_every - 1
    return transitions[~held_out], transitions[held_out]
