"""Noise with a power spectrum 1 / f^β: unit variance at each time, and the spectrum that was asked for."""

import math

import pytest
import torch

from bayes_mbrl.planners.coloured_noise import coloured_noise

LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("colour", [0.0, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("horizon", [1, 2, 3, 8, 25])
def test_standard_normal_at_each_time(horizon: int, colour: float, generator: torch.Generator) -> None:
    count = 20_000
    noise = coloured_noise(count, horizon, 2, colour, like=LIKE, generator=generator)
    assert noise.shape == (count, horizon, 2)
    assert (noise.mean(0).abs() < 5 / math.sqrt(count)).all()
    assert ((noise.square().mean(0) - 1).abs() < 5 * math.sqrt(2 / count)).all()
    assert ((noise**4).mean(0) - 3).abs().max() < 5 * math.sqrt(96 / count)
    between_actions = (noise[..., 0] * noise[..., 1]).mean(0)
    assert (between_actions.abs() < 5 / math.sqrt(count)).all()


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("horizon", [24, 25])
def test_the_power_falls_as_asked(horizon: int, colour: float, generator: torch.Generator) -> None:
    noise = coloured_noise(20_000, horizon, 1, colour, like=LIKE, generator=generator)[..., 0]
    power = torch.fft.rfft(noise, dim=1).abs().square().mean(0)[1:]
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64)[1:]
    assert torch.allclose(power / power[0], (frequency / frequency[0]) ** -colour, rtol=0.06)


def test_dtype_and_generator() -> None:
    first, same, other = (
        coloured_noise(3, 5, 2, 1.0, like=torch.zeros(1), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first.dtype == torch.float32
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
