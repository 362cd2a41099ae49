"""A model on which dropout has a closed form."""

import torch
from torch import Tensor

from bayes_mbrl.inference import dropout
from bayes_mbrl.inference.network import BayesianNetwork


class HeldFirstLayer(BayesianNetwork):
    """A single affine layer whose inputs count as hidden units, so that its optimum is known."""

    def __init__(self, width: int, noise_std: float) -> None:
        super().__init__(width, 1, hidden=(), noise="fixed", noise_std=noise_std, dtype=torch.float64)

    @property
    def hidden_weights(self) -> frozenset[str]:
        return frozenset({"weight"})

    def prior(self) -> dict[str, torch.distributions.Distribution]:
        return {"weight": self._normal(1.0, self.layer_sizes[0], 1)}

    def initial(self, n: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"weight": torch.zeros(n, self.layer_sizes[0], 1, dtype=self.dtype)}

    def log_likelihood(self, theta, x, y):  # type: ignore[no-untyped-def]
        weight = theta["weight"]
        bias = torch.zeros(1, dtype=self.dtype)
        mean = weight.affine(x, bias) if isinstance(weight, dropout.MaskedWeight) else x @ weight
        return torch.distributions.Normal(mean, self.noise_std).log_prob(y).sum(-1)
