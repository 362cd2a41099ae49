"""A model that regresses y on x: mean and std of y given x and θ, and how y scatters about them.

Axes: K parameter samples, N data, D inputs, O outputs.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_mbrl.inference.base import Model, Theta, require
from bayes_mbrl.inference.layers import Parameter
from bayes_mbrl.inference.likelihoods import Likelihood
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch


class Regression(Model):
    """y = mean(x, θ) + std(x, θ) · ε, independent over outputs, ε distributed as `likelihood` says.

    Of a binary output, y is 1 where that is above 0, else 0.
    """

    input_dim: int
    output_dim: int
    likelihood: Likelihood
    num_binary: int = 0
    """How many of the outputs, the last ones, are binary."""

    @abstractmethod
    def predict(
        self, theta: Mapping[str, Parameter], x: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """(mean, std) of y: x [N, D] → two tensors [N, O]; with θ_1..θ_K, x [N, D] or [K, N, D] → two [K, N, O].

        Of a binary output they are those of the latent number of which y is the sign: see `Likelihood.observed`.
        """

    def log_likelihood(self, theta: Mapping[str, Parameter], x: Tensor, y: Tensor) -> Tensor:
        """Σ over outputs of log p(y | mean, std), per datum: [N] or [K, N].

        Raises ValueError as `check_widths`.
        """
        self.check_widths(x, y)
        mean, std = self.predict(theta, x)
        return self.likelihood.log_density(y, mean, std).sum(-1)

    def sample(self, theta: Theta, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """y ~ p(y | x, θ_k): θ {name: [K, ...]}, x [N, D] → [K, N, O]. With draws of the prior: prior-predictive."""
        mean, std = self.predict(theta, x)
        standard_normal = torch.empty_like(mean).normal_(generator=generator)
        return self.likelihood.observed(torch.addcmul(mean, std, self.likelihood.noise(standard_normal)))

    def faults(self, y: Tensor) -> list[str]:
        """Binary columns that are not 0 or 1."""
        columns = range(self.output_dim - self.num_binary, y.shape[1]) if self.num_binary else ()
        wrong = {column: y[(y[:, column] != 0) & (y[:, column] != 1), column] for column in columns}
        return [
            f"need 0 or 1 in column {column} of y, which is binary, got {float(values[0]):g} and the like in "
            f"{len(values)} rows"
            for column, values in wrong.items()
            if len(values)
        ]

    def check_widths(self, x: Tensor, y: Tensor) -> None:
        """Raise ValueError unless x and y have as many columns as the model (y [N, 1] would broadcast in silence)."""
        need, got = (self.input_dim, self.output_dim), (x.shape[-1], y.shape[-1])
        require((need == got, f"need x [N, {need[0]}] and y [N, {need[1]}], got {list(x.shape)} and {list(y.shape)}"))
