"""The one training loop: Adam on minibatches with a cosine learning rate. Used by every fit that follows a gradient."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class FitInfo:
    """What a person wants to see of a fit that minimised a loss."""

    losses: Tensor
    """[steps] minibatch estimates of the loss, in nats of the whole data set; [steps, E] for E members."""

    @property
    def final_losses(self) -> Tensor:
        """Mean loss over the last tenth of the steps: [] or [E]."""
        return self.losses[-max(1, len(self.losses) // 10) :].mean(0)

    @property
    def final_loss(self) -> float:
        """Mean loss over the last tenth of the steps and over the members."""
        return float(self.final_losses.mean())


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

    Raises FloatingPointError when the loss stops being finite: says at which step and what to lower.
    """
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    first_averaged = num_steps - round(average_last * num_steps)
    averages = [parameter.detach().clone() for parameter in parameters]
    losses: list[Tensor] = []
    for step in range(num_steps):
        optimiser.zero_grad()
        value = loss(step)
        losses.append(value.detach())
        total = value.sum()
        _check_finite(total, step, num_steps, learning_rate)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step >= first_averaged:
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter.detach(), 1 / (step - first_averaged + 1))
    if first_averaged < num_steps:
        for average, parameter in zip(averages, parameters, strict=True):
            parameter.detach().copy_(average)
    for parameter in parameters:
        _check_finite(parameter.detach().sum(), num_steps, num_steps, learning_rate)
    return FitInfo(torch.stack(losses))


def _check_finite(value: Tensor, step: int, num_steps: int, learning_rate: float) -> None:
    if not math.isfinite(value.item()):
        raise FloatingPointError(
            f"the fit diverged at step {step} of {num_steps}: lower learning_rate, got {learning_rate}, "
            "or look for extreme values in the data"
        )
