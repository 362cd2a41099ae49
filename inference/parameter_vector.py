"""All parameters of a model as one vector, and back. Axes: P entries of all parameters together, K samples."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.inference.base import Model, Theta, parameter_shapes


@dataclasses.dataclass(frozen=True)
class ParameterVector:
    """The order of some of a model's parameters, or of all, in a vector [P]."""

    shapes: dict[str, torch.Size]

    @classmethod
    def of(cls, model: Model, names: Collection[str] | None = None) -> Self:
        """The parameters `names` of the model in its order, by default all."""
        return cls({name: shape for name, shape in parameter_shapes(model).items() if names is None or name in names})

    @property
    def size(self) -> int:
        """P."""
        return sum(shape.numel() for shape in self.shapes.values())

    def join(self, theta: Mapping[str, Tensor]) -> Tensor:
        """{name: shape} → [P]; other names are left out."""
        return torch.cat([theta[name].flatten() for name in self.shapes])

    def join_normal(self, normals: Mapping[str, Normal]) -> Normal:
        """Normals by name as one over [P]."""
        loc, scale = ({name: getattr(normals[name], part) for name in self.shapes} for part in ("loc", "scale"))
        return Normal(self.join(loc), self.join(scale), validate_args=False)

    def split(self, vector: Tensor) -> Theta:
        """[..., P] → {name: [..., *shape]}."""
        parts = torch.split(vector, [shape.numel() for shape in self.shapes.values()], -1)
        leading = vector.shape[:-1]
        return {
            name: part.reshape(leading + shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }


def triangular_log_density(deviation: Tensor, factor: Tensor) -> Tensor:
    """log N(deviation | 0, factor factorᵀ): deviation [..., P], factor [P, P] upper triangular → [...]."""
    flat = deviation.reshape(-1, len(factor))
    standard = torch.linalg.solve_triangular(factor, flat.T, upper=True)
    log_volume = factor.diagonal().abs().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
    log_density: Tensor = -0.5 * (standard**2).sum(0) - log_volume
    return log_density.view(deviation.shape[:-1])
