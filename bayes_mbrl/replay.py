"""Past transitions to learn from again, and imagined ones beside them. Axes: N transitions, S state, A action."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.inference.base import require


class Batch(NamedTuple):
    """Transitions as columns, unchecked: what an update consumes by the thousand."""

    state: Tensor
    """[N, S]"""
    action: Tensor
    """[N, A]"""
    reward: Tensor
    """[N]"""
    next_state: Tensor
    """[N, S]"""
    terminated: Tensor
    """[N] bool: next_state is terminal. An episode that was truncated goes on elsewhere: its last row says False."""

    @classmethod
    def of(cls, transitions: Transitions) -> "Batch":
        """The columns of checked transitions."""
        t = transitions
        return cls(t.state, t.action, t.reward, t.next_state, t.terminated)


class Replay:
    """The newest `capacity` transitions, drawn from uniformly and with replacement.

    Raises ValueError unless capacity >= 1.
    """

    def __init__(self, capacity: int) -> None:
        require((capacity >= 1, f"need capacity >= 1, got {capacity}"))
        self.capacity = capacity
        self._columns: Batch | None = None
        self._num_added = 0

    def __len__(self) -> int:
        return min(self._num_added, self.capacity)

    @property
    def num_added(self) -> int:
        """Rows that were ever added."""
        return self._num_added

    def add(self, batch: Batch) -> None:
        """Append rows, over the oldest ones where there is no room."""
        num_added = self._num_added + len(batch.reward)
        batch = Batch(*(column[-self.capacity :] for column in batch))
        if self._columns is None:
            self._columns = Batch(*(column.new_empty(0, *column.shape[1:]) for column in batch))
        places = torch.arange(num_added - len(batch.reward), num_added) % self.capacity
        needed = min(num_added, self.capacity)
        if needed > len(self._columns.reward):  # room for twice as many, so that growing costs little in all
            room = min(2 * needed, self.capacity)
            self._columns = Batch(*(torch.cat([c, c.new_empty(room - len(c), *c.shape[1:])]) for c in self._columns))
        for column, rows in zip(self._columns, batch, strict=True):
            column[places] = rows
        self._num_added = num_added

    def sample(self, n: int, *, generator: torch.Generator) -> Batch:
        """n rows. Raises ValueError while it is empty."""
        require((self._columns is not None and len(self) > 0, "need transitions to draw from, the replay is empty"))
        assert self._columns is not None
        rows = torch.randint(len(self), (n,), generator=generator)
        return Batch(*(column[rows] for column in self._columns))

    def tensors(self) -> dict[str, Tensor]:
        """All rows, by name of the column, and how many were ever added; nothing while it is empty."""
        if self._columns is None:
            return {}
        rows = {name: column[: len(self)].clone() for name, column in self._columns._asdict().items()}
        return {**rows, "num_added": torch.tensor(self._num_added)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`. Raises ValueError where there are more rows than there is room for."""
        self._columns, self._num_added = None, 0
        if not tensors:
            return
        columns = Batch(**{name: tensors[name].clone() for name in Batch._fields})
        num_added = int(tensors["num_added"])
        expected = min(num_added, self.capacity)
        require((len(columns.reward) == expected, f"need {expected} rows for this capacity, got {len(columns.reward)}"))
        self._columns, self._num_added = columns, num_added


def mixed(real: Replay, imagined: Replay, n: int, *, real_ratio: float, generator: torch.Generator) -> Batch:
    """n rows, a share of `real_ratio` of them real (rounded); all of them while nothing is imagined.

    Raises ValueError unless 0 <= real_ratio <= 1.
    """
    require((0 <= real_ratio <= 1, f"need 0 <= real_ratio <= 1, got {real_ratio}"))
    num_real = n if len(imagined) == 0 else round(real_ratio * n)
    parts = [
        replay.sample(count, generator=generator)
        for replay, count in ((real, num_real), (imagined, n - num_real))
        if count
    ]
    return Batch(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
