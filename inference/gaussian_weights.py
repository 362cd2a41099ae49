"""Gaussian weights drawn anew for every datum of a minibatch, by two identities that make it cheap.

One draw of the weights shared by a minibatch makes its gradient noisy: the noise is shared too. Both kinds below have
every datum's exact distribution, so the ELBO, a sum over data, is the same in expectation.
Axes: K particles, N data, D inputs, O outputs. Weights have the means [D, O], or [K, D, O] of their own for each
particle; biases [O] or [K, O].
"""

import torch
from torch import Tensor

from bayes_mbrl.inference.layers import Parameter, RandomWeight, affine


class LocalNormal(RandomWeight):
    """N(loc, scale²), drawn by drawing the layer's output. Source: Kingma, Salimans & Welling (2015), eq. 6."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.variance = scale**2

    def affine(self, x: Tensor, bias: Parameter) -> Tensor:
        """N(x loc + b, x² variance + variance of b), independent over data: x [..., N, D] → [..., N, O]."""
        assert isinstance(bias, LocalNormal), "weight and bias of a layer are random together"
        mean = _affine(x, self.loc, bias.loc)
        std = _affine(x * x, self.variance, bias.variance).sqrt()
        return torch.addcmul(mean, std, torch.randn_like(mean))


class FlipoutNormal(RandomWeight):
    """N(loc, scale²), one draw of the noise a particle, its signs flipped for every datum by random r_i s_iᵀ.

    Each datum's weights have the right distribution, and different data's are uncorrelated.
    Source: Wen et al. (2018), eq. 3-4. Ours differs in drawing the bias, which costs nothing, independently.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale

    def affine(self, x: Tensor, bias: Parameter) -> Tensor:
        """x loc + b + ((x ∘ r) (scale ∘ ε)) ∘ s, r and s signs: x [..., N, D] → [..., N, O]."""
        assert isinstance(bias, FlipoutNormal), "weight and bias of a layer are random together"
        mean = _affine(x, self.loc, bias.loc)
        noise = self.scale * torch.randn(*x.shape[:-2], *self.scale.shape[-2:], dtype=x.dtype, device=x.device)
        perturbation = ((x * _signs(x)) @ noise) * _signs(mean)
        return torch.addcmul(mean + perturbation, bias.scale, torch.randn_like(mean))


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W + b; all rows in one product where the particles share W."""
    if weight.ndim == 2:
        return affine(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], -1)
    return affine(x, weight, bias)


def _signs(like: Tensor) -> Tensor:
    """−1 or 1 with equal probability."""
    return torch.empty_like(like).bernoulli_().mul_(2).sub_(1)
