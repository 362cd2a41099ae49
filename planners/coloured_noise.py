"""Gaussian noise whose power falls with the frequency: neighbours in time resemble each other.

Source: Timmer & König, On generating power law noise (1995), section 3.
"""

import torch
from torch import Tensor


def coloured_noise(
    count: int, horizon: int, num_actions: int, colour: float, *, like: Tensor, generator: torch.Generator
) -> Tensor:
    """[count, horizon, num_actions], N(0, 1) at each time, with the power spectrum 1 / f^colour over time.

    The frequency 0 gets the power of the lowest one above it, so that a plan as a whole may lie off centre. Plans and
    actions are independent. colour 0 is white noise. dtype and device are those of `like`.
    """
    num_frequencies = horizon // 2 + 1
    shape = (2, count, num_actions, num_frequencies)
    real, imaginary = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    frequency = torch.fft.rfftfreq(horizon, dtype=like.dtype, device=like.device).clamp(min=1 / horizon)
    amplitude = frequency ** (-colour / 2)
    # The two frequencies that are their own mirror image are real, with the variance of both parts together.
    own_mirror = torch.zeros(num_frequencies, dtype=torch.bool, device=like.device)
    own_mirror[0] = True
    own_mirror[-1] |= horizon % 2 == 0
    real = torch.where(own_mirror, 2**0.5 * real, real)
    imaginary = torch.where(own_mirror, 0, imaginary)
    noise = torch.fft.irfft(torch.complex(real, imaginary) * amplitude, n=horizon, dim=-1)
    weight = torch.where(own_mirror, 1, 2) * amplitude.square()
    std = (2 * weight.sum()).sqrt() / horizon
    unit: Tensor = noise / std
    return unit.transpose(1, 2)
