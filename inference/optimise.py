"""The one training loop: Adam on minibatches with a cosine learning rate. Used by every fit that follows a gradient."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from bayes_mbrl.inference.base import Posterior

Q = TypeVar("Q", bound=Posterior)


@dataclasses.dataclass(frozen=True)
class FitInfo:
    """What a person wants to see of a fit that minimised a loss."""

    losses: Tensor
    """[steps] minibatch estimates of the loss, in nats of the whole data set; [steps, E] for E members."""
    divergence: str | None = None
    """When the loss stopped being finite: at which step, and what to lower. The losses end before."""

    @property
    def final_losses(self) -> Tensor:
        """Mean loss over the last tenth of the steps: [] or [E]."""
        return self.losses[-max(1, len(self.losses) // 10) :].mean(0)

    @property
    def final_loss(self) -> float:
        """Mean loss over the last tenth of the steps and over the members."""
        return float(self.final_losses.mean())


class DivergedFitError(FloatingPointError):
    """A fit's loss stopped being finite; what it had learned until then is kept here."""

    def __init__(self, posterior: Posterior, info: FitInfo) -> None:
        super().__init__(info.divergence)
        self.posterior = posterior
        """From the last parameters with a finite loss."""
        self.info = info
        """Of the steps before."""


def finished(posterior: Q, info: FitInfo) -> tuple[Q, FitInfo]:
    """What a fit returns. Raises DivergedFitError, with both in it, when `minimise` had to stop."""
    if info.divergence is not None:
        raise DivergedFitError(posterior, info)
    return posterior, info


def minibatches(num_data: int, batch_size: int, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless row indices [min(batch_size, num_data)]: each epoch a new permutation, cut into full batches.

    Rows left over at the end of an epoch are dropped, so every batch is a uniformly random subset of one size and
    N/n times its sum is unbiased for the sum over the data.
    """
    size = min(batch_size, num_data)
    while True:
        order = torch.randperm(num_data, generator=generator, device=generator.device)
        for start in range(0, num_data - size + 1, size):
            yield order[start : start + size]


def minimise(
    loss: Callable[[int], Tensor],
    parameters: Sequence[Tensor],
    *,
    num_steps: int,
    learning_rate: float,
    average_last: float = 0.0,
) -> FitInfo:
    """Minimise `loss(step)` over leaf tensors, in place, by Adam with a learning rate that falls to 0 as a cosine.

    A loss [E] is a sum of E terms without shared parameters, the members of an ensemble. `average_last` is the share
    of the steps at the end over whose iterates the result is averaged, which takes out the gradient's noise (Polyak &
    Juditsky 1992); 0 takes the last iterate.

    When the loss stops being finite, the parameters go back to the last values at which it was, and the info says at
    which step and what to lower; `finished` makes an error of it.
    """
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    values = [parameter.detach() for parameter in parameters]
    sound = [value.clone() for value in values]  # the last with a finite loss
    first_averaged = num_steps - round(average_last * num_steps)
    averages = [value.clone() for value in values]
    losses: list[Tensor] = []
    for step in range(num_steps):
        optimiser.zero_grad()
        try:
            loss_now = loss(step)
            total = loss_now.sum()
            sound_now = math.isfinite(total.item())
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # a factorisation that met values that are not finite
            sound_now = False
        if not sound_now:
            return _diverged(values, sound, losses, step, num_steps, learning_rate)
        losses.append(loss_now.detach())
        torch._foreach_copy_(sound, values)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step >= first_averaged:
            torch._foreach_lerp_(averages, values, 1 / (step - first_averaged + 1))
    if not all(bool(value.isfinite().all()) for value in values):
        return _diverged(values, sound, losses, num_steps, num_steps, learning_rate)
    if first_averaged < num_steps:
        torch._foreach_copy_(values, averages)
    return FitInfo(torch.stack(losses))


def _diverged(
    values: list[Tensor], sound: list[Tensor], losses: list[Tensor], step: int, num_steps: int, learning_rate: float
) -> FitInfo:
    torch._foreach_copy_(values, sound)
    message = (
        f"the fit diverged at step {step} of {num_steps}: lower learning_rate, got {learning_rate}, "
        "or look for extreme values in the data"
    )
    return FitInfo(torch.stack(losses) if losses else torch.empty(0), message)
