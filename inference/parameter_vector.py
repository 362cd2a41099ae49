"""All parameters of a model as one vector, and back. Axes: P entries of all parameters together, K samples."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.inference.base import Model, Theta, parameter_shapes


@dataclasses.dataclass(frozen=True)
class ParameterVector:
    """The order of the parameters in a vector [P]; those of `first` come first."""

    shapes: dict[str, torch.Size]
    first: frozenset[str]

    @classmethod
    def of(cls, model: Model, first: frozenset[str] = frozenset()) -> Self:
        """The model's parameters, `first` those before the others."""
        shapes = parameter_shapes(model)
        return cls({name: shapes[name] for name in sorted(shapes, key=lambda name: name not in first)}, first)

    @property
    def size(self) -> int:
        """P."""
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def size_of_first(self) -> int:
        """Number of entries of the parameters that come first."""
        return sum(self.shapes[name].numel() for name in self.first)

    def join(self, theta: Mapping[str, Tensor]) -> Tensor:
        """{name: shape} → [P]."""
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
