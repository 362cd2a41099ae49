"""Buffers that a repeated computation writes its intermediate results into.

A large temporary is costly: the allocator hands it back to the system and faults it in again at every call. Code
passes `out=scratch.take(name, shape, like)` to torch; with NO_SCRATCH that is `out=None`, and the same line
allocates and lets gradients flow.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Scratch(Protocol):
    """Where intermediate results go."""

    @property
    def reuses(self) -> bool:
        """Whether results are overwritten by the next call, so that work in place is allowed."""

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """A buffer of this shape with the dtype and device of `like`, or None: allocate."""


class _NoScratch:
    reuses = False

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor | None:
        return None


NO_SCRATCH: Scratch = _NoScratch()


class Buffers:
    """One buffer a name, grown when a larger one is asked for and otherwise used again. Not for use under autograd."""

    reuses = True

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """The buffer `name` as a contiguous tensor of this shape; its content is whatever was there before."""
        taken = self._taken.get(name)
        if taken is not None and taken.shape == shape and taken.dtype == like.dtype and taken.device == like.device:
            return taken  # a view costs as much as an operation on a small tensor
        size = torch.Size(shape).numel()
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size or flat.dtype != like.dtype or flat.device != like.device:
            flat = self._flat[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        self._taken[name] = flat[:size].view(shape)
        return self._taken[name]
