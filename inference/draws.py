"""p(θ | D) ≈ (1/E) Σ_e δ(θ_e): a posterior made of stored draws, the members of an ensemble or the states of a chain.

Source: the lecture's bootstrap ensemble; particles: Chua et al. (2018), section 5.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from bayes_mbrl.inference.base import Posterior, Theta, require


@dataclasses.dataclass(frozen=True)
class DrawsPosterior(Posterior):
    """(1/E) Σ_e δ(θ_e).

    Raises ValueError unless every parameter comes with the same number of draws, at least one.
    """

    kind: ClassVar[str] = "draws"

    draws: Theta
    """{name: [E, ...]}."""

    def __post_init__(self) -> None:
        counts = {name: len(draws) if draws.ndim else 0 for name, draws in self.draws.items()}
        require(
            (
                len(set(counts.values())) == 1 and min(counts.values()) > 0,
                f"need the same number of draws, at least one, of every parameter, got {counts}",
            )
        )

    @property
    def num_draws(self) -> int:
        """E."""
        return len(next(iter(self.draws.values())))

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """Every draw floor(n / E) times and n mod E distinct ones once more, in random order: {name: [n, ...]}.

        Each sample by itself is uniform over the draws; together they vary less than independent ones.
        """
        device = generator.device
        whole = torch.arange(self.num_draws, device=device).repeat(n // self.num_draws)
        rest = torch.randperm(self.num_draws, generator=generator, device=device)[: n % self.num_draws]
        index = torch.cat([whole, rest])[torch.randperm(n, generator=generator, device=device)]
        return {name: draws.index_select(0, index) for name, draws in self.draws.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The draws by the names of their parameters."""
        return dict(self.draws)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(dict(tensors))
