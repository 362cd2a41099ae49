import itertools
import math

import pytest
import torch
from torch import Tensor

from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.optimise import DivergedFitError, FitInfo, finished, minibatches, minimise


@pytest.mark.parametrize(("num_data", "batch_size"), [(10, 3), (10, 5), (10, 10), (10, 99), (1, 4)])
def test_minibatches_are_parts_of_a_permutation(num_data: int, batch_size: int, generator: torch.Generator) -> None:
    size = min(batch_size, num_data)
    batches = minibatches(num_data, batch_size, generator=generator)
    for _ in range(20):
        epoch = torch.cat(list(itertools.islice(batches, num_data // size)))
        assert len(epoch.unique()) == len(epoch) == num_data // size * size


def test_scaled_minibatch_sums_are_unbiased(generator: torch.Generator) -> None:
    """N / n Σ over a batch, where 10 rows cut into 4s leave some out: within 5 standard errors of the whole sum."""
    values = torch.tensor([100.0, 1, -7, 3, 0, 2, 50, -20, 8, 9], dtype=torch.float64)
    repeats = 6000
    batches = itertools.islice(minibatches(10, 4, generator=generator), repeats)
    estimates = torch.stack([10 / 4 * values[rows].sum() for rows in batches])
    assert abs(float(estimates.mean() - values.sum())) < 5 * float(estimates.std()) / math.sqrt(repeats)


def test_minimise_finds_the_minimum_and_keeps_the_losses() -> None:
    point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 100.0], dtype=torch.float64)
    target = torch.tensor([3.0, -1.0], dtype=torch.float64)
    info = minimise(lambda _: (scale * (point - target) ** 2).sum(), [point], num_steps=500, learning_rate=0.1)
    torch.testing.assert_close(point.detach(), target, rtol=0, atol=1e-4)
    assert info.losses.shape == (500,)
    assert info.losses[0] == 9 + 100
    assert info.final_loss < 1e-6


def test_members_do_not_meet() -> None:
    """A loss [E] moves each member as it would move alone."""
    start, target = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 9.0])
    together = start.clone().requires_grad_()
    info = minimise(lambda _: (together - target) ** 4, [together], num_steps=20, learning_rate=0.1)
    assert info.losses.shape == (20, 2)
    assert info.final_losses.shape == (2,)
    for member in range(2):
        alone = start[member].clone().requires_grad_()

        def loss(_: int, alone: Tensor = alone, member: int = member) -> Tensor:
            return (alone - target[member]) ** 4

        minimise(loss, [alone], num_steps=20, learning_rate=0.1)
        torch.testing.assert_close(together[member], alone)


def test_average_of_the_last_iterates() -> None:
    """average_last = 0.4 of 5 steps: the mean of the iterates after the fourth and the fifth."""
    seen: list[Tensor] = []
    point = torch.tensor([1.0], requires_grad=True)

    def loss(_: int) -> Tensor:
        seen.append(point.detach().clone())
        return (point**2).sum()

    minimise(loss, [point], num_steps=5, learning_rate=0.1)
    iterates = [*seen[1:], point.detach().clone()]
    point.data.fill_(1.0)
    minimise(loss, [point], num_steps=5, learning_rate=0.1, average_last=0.4)
    torch.testing.assert_close(point.detach(), (iterates[3] + iterates[4]) / 2)


def test_divergence_names_the_step_and_what_to_lower_and_keeps_the_last_finite_state() -> None:
    """The loss is NaN at step 3, so the parameters of step 2, at which it was last finite, come back."""
    point = torch.ones(1, requires_grad=True)
    factors = iter([1.0, 1.0, 1.0, math.nan])
    seen: list[float] = []

    def loss(_: int) -> Tensor:
        seen.append(point.item())
        return point.sum() * next(factors)

    info = minimise(loss, [point], num_steps=9, learning_rate=0.5)
    assert info.divergence is not None
    assert "diverged at step 3 of 9: lower learning_rate, got 0.5" in info.divergence
    assert info.losses.tolist() == pytest.approx(seen[:3])
    assert point.item() == seen[2] != seen[3]
    posterior = DrawsPosterior({"point": point.detach()})
    with pytest.raises(DivergedFitError, match="diverged at step 3 of 9") as raised:
        finished(posterior, info)
    assert raised.value.posterior is posterior
    assert raised.value.info is info


def test_a_last_step_into_nan_does_not_pass() -> None:
    point = torch.ones(1, requires_grad=True)
    info = minimise(lambda _: (point - 1).abs().sqrt().sum(), [point], num_steps=1, learning_rate=0.5)
    assert "diverged at step 1 of 1" in str(info.divergence)
    assert point.item() == 1.0


def test_final_loss_is_the_mean_of_the_last_tenth() -> None:
    assert FitInfo(torch.arange(20.0)).final_loss == 18.5
    assert FitInfo(torch.arange(3.0)).final_loss == 2.0
