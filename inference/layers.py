"""The affine layer x W + b that every network is made of, for one θ, for K of them, or for weights that are random.

While fitting, one draw of the weights shared by a whole minibatch makes the gradient's noise shared too. A
`RandomWeight` in the place of a weight tensor draws anew for every datum, by whatever identity makes that cheap: local
reparameterisation for Gaussian weights (svi.py), masks for dropout (dropout.py).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch


class RandomWeight(ABC):
    """A weight matrix [D, O] that takes another value for every datum."""

    @abstractmethod
    def affine(self, x: Tensor, bias: "Parameter") -> Tensor:
        """x [N, D] → x_i W_i + b_i [N, O], with W_i drawn afresh for each datum i."""


Parameter = Tensor | RandomWeight
"""What stands for a parameter in a likelihood: its value, or while fitting a weight drawn anew for every datum."""


def affine(x: Tensor, weight: Parameter, bias: Parameter, *, scratch: Scratch = NO_SCRATCH, name: str = "") -> Tensor:
    """x W + b, into the buffer `name` of the scratch.

    x [N, D], weight [D, O], bias [O] → [N, O]; with a sample axis, weight [K, D, O], bias [K, O] and x [N, D] or
    [K, N, D] → [K, N, O].
    """
    if isinstance(weight, RandomWeight):
        return weight.affine(x, bias)
    assert isinstance(bias, Tensor), "weight and bias of a layer are random together"
    out = scratch.take(name, (*weight.shape[:-2], x.shape[-2], weight.shape[-1]), x)
    if weight.ndim == 2:
        return torch.addmm(bias, x, weight, out=out)
    return torch.baddbmm(bias.unsqueeze(-2), x.expand(weight.shape[0], *x.shape[-2:]), weight, out=out)
