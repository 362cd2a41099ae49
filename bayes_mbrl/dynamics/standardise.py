"""Shift and scale to mean 0 and standard deviation 1, safe for dimensions that never change."""

import dataclasses
from typing import Self

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Standardiser:
    """z = (x − mean) / std, dimension by dimension."""

    mean: Tensor
    """[D]"""
    std: Tensor
    """[D], above 0"""

    @classmethod
    def fitted(cls, values: Tensor, *, constant_std: Tensor | None = None, relative_floor: float = 1e-6) -> Self:
        """Mean and std over the rows of values [N, D].

        A dimension that does not vary (its std is below `relative_floor` times its magnitude) gets its `constant_std`
        [D], by default 1: dividing by the rounding error of a constant would blow it up into noise.
        """
        mean = values.mean(0)
        std = values.std(0, correction=0)
        constant = std <= relative_floor * values.abs().amax(0)
        return cls(mean, torch.where(constant, torch.ones_like(std) if constant_std is None else constant_std, std))

    def __call__(self, values: Tensor) -> Tensor:
        """Environment units to standardised ones."""
        return (values - self.mean) / self.std


def negligible_std(values: Tensor) -> Tensor:
    """A thousandth of the scale of each dimension of values [N, D] → [D]: the unit of targets that never vary.

    The noise's lower bound is in units of the targets; with 1 as that unit, a coordinate that has stood still in all
    data would jitter in every imagined step.
    """
    spread, size = values.std(0, correction=0), values.abs().amax(0)
    return 1e-3 * torch.where(spread > 1e-6 * size, spread, torch.where(size > 0, size, torch.ones_like(size)))
