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
    """[steps] minibatch estimates of the loss, in nats of the whole data set."""

    @property
    def final_loss(self) -> float:
        """Mean loss over the last tenth of the steps."""
        return float(self.losses[-max(1, len(self.losses) // 10) :].mean())


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
    max_gradient_norm: float = math.inf,
) -> FitInfo:
    """Minimise `loss(step)` over leaf tensors, in place, by Adam with a learning rate that falls to 0 as a cosine.

    Raises FloatingPointError when the loss stops being finite: says at which step and what to lower; the parameters
    then hold the last values that gave a finite loss.
    """
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    losses: list[float] = []
    for step in range(num_steps):
        optimiser.zero_grad()
        value = loss(step)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(
                f"the fit diverged at step {step} of {num_steps} (loss {losses[-1]}): lower learning_rate, "
                f"got {learning_rate}, or look for extreme values in the data"
            )
        value.backward()  # type: ignore[no-untyped-call]
        if math.isfinite(max_gradient_norm):
            torch.nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
        optimiser.step()
        schedule.step()
    return FitInfo(torch.tensor(losses))
