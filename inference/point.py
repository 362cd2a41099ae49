"""δ(θ_ML): one best θ, by maximum likelihood or maximum a posteriori. No epistemic uncertainty: the baseline.

Source: the lecture; whether the output's variance is learned is the model's `noise` ("idea 1: output entropy", which
is not enough). An ensemble of one member on all the data.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bayes_mbrl.inference import ensemble
from bayes_mbrl.inference.base import Model, Posterior, check_settings
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.optimise import FitInfo


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    prior_weight: Annotated[float, Ge(0)] = 0.0,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
) -> tuple[DrawsPosterior, FitInfo]:
    """argmax_θ log p(y | x, θ) + prior_weight · log p(θ).

    x [N, D], y [N, O]. `prior_weight` 0 is maximum likelihood, 1 maximum a posteriori. The info's losses are
    [steps, 1], in nats of the whole data set.

    Raises ValueError for settings or data out of bounds, DivergedFitError when the fit diverges.
    """
    return ensemble.fit(
        model,
        x,
        y,
        generator=generator,
        warm_start=warm_start,
        num_members=1,
        resample=False,
        prior_weight=prior_weight,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
