"""`NetworkDynamics.sample` for one θ, made ready to be asked at every step of a rollout: the same numbers in less time.

Units are folded into the network: the inputs' scale into its first layer, mean and scale of the targets into its last.
Particles lie along the last axis in memory, [K, units, M·C]: there a product with few outputs is several times as
fast as along the first, and each number of the state is one stretch of memory. Views are made once: one costs as much
as an operation on a small tensor. The plain path is the reference, and what gradients go through; that both are equal
is a test. Axes: K parameter samples, M noise draws, C candidate plans, S state, A action, O outputs, F features.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.scratch import Buffers


@dataclasses.dataclass(frozen=True)
class _Space:
    """Where a step is computed, for one number of plans: buffers, and views of them."""

    x: Tensor
    """[K, F + A, M·C], centred inputs of the network, of which `features` and `actions` are views."""
    features: Tensor
    """[K, M, C, F]"""
    actions: Tensor
    """[K, M, C, A]"""
    mean: Tensor
    """[K, O, M, C], the network's first outputs: s' − s, and the reward if it is learned."""
    raw: Tensor
    """[K, O or 0, M, C], the others, of a learned std."""
    shift: Tensor
    """[K, O, M, 1], of the noise"""
    factor: Tensor
    """[K, O, M, 1], of the noise"""


class FoldedNetwork:
    """s' = s + Δ(s, a) as `NetworkDynamics` has it, with θ and buffers bound.

    Only the mean of the inputs stays outside of the weights: of a badly scaled input a bias would take the digits that
    tell two states apart. With `bf16` the products of hidden layers with one another, and what goes into them, have 8
    bits of precision; first layer, last layer and states keep those of θ.
    """

    def __init__(
        self,
        model: BayesianNetwork,
        theta: Mapping[str, Tensor],
        *,
        features: Callable[[Tensor], Tensor],
        inputs: Standardiser,
        targets: Standardiser,
        state_dim: int,
        scratch: Buffers,
        bf16: bool = False,
    ) -> None:
        self._features, self._state_dim = features, state_dim
        self._inputs_mean, self._num_outputs = inputs.mean, len(targets.mean)
        self._activate, self._scratch = model.activate_in_place, scratch
        layers = [_affine(theta, layer) for layer in range(model.num_layers)]
        layers[0] = layers[0][0] / inputs.std, layers[0][1]
        scale, shift = targets.std[:, None], targets.mean[:, None]
        self._range: Tensor | None = None
        if model.noise == "heteroscedastic":  # std = least + range · sigmoid(raw − log max_std)
            self._least, self._range = model.min_std * scale[..., None], model.max_std * scale[..., None]
            scale = torch.cat([scale, torch.ones_like(scale)])
            shift = torch.cat([shift, torch.full_like(shift, -math.log(model.max_std))])
        else:
            _, std = model.predict(theta, targets.mean.new_zeros(1, model.input_dim))
            self._least = (std.movedim(1, -1) * scale)[..., None]
        layers[-1] = layers[-1][0] * scale, layers[-1][1] * scale + shift
        if bf16:
            layers[1:-1] = [(weight.bfloat16(), bias.bfloat16()) for weight, bias in layers[1:-1]]
        self._layers = [(weight.contiguous(), bias) for weight, bias in layers]
        self._space: _Space | None = None

    def __call__(self, states: Tensor, actions: Tensor, noise: Tensor, *, name: str) -> Tensor:
        """s' [K, M, C, O] in the buffer `name`: states [K, M, C, S or more], actions [C, A], noise [K, M, 1, O]."""
        if states.shape[-1] > self._state_dim:
            states = states[..., : self._state_dim]
        space = self._space
        if space is None or space.actions.shape[1:] != (noise.shape[1], *actions.shape):
            space = self._space = self._new_space(noise.shape[1], *actions.shape)
        num_features = space.features.shape[-1]
        torch.sub(self._features(states), self._inputs_mean[:num_features], out=space.features)
        torch.sub(actions.expand(space.actions.shape), self._inputs_mean[num_features:], out=space.actions)
        self._network(space.x)
        noise = noise.movedim(-1, 1)
        following = self._scratch.take(name, space.mean.shape, space.mean)
        torch.mul(self._least, noise, out=space.shift)
        if self._range is None:
            torch.add(space.mean, space.shift, out=following)
        else:
            torch.mul(self._range, noise, out=space.factor)
            torch.addcmul(space.mean, space.raw.sigmoid_(), space.factor, out=following).add_(space.shift)
        following = following.movedim(1, -1)
        following[..., : self._state_dim].add_(states)
        return following

    def _network(self, x: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(self._layers):
            if number:
                x = self._activate(x)
            if x.dtype != weight.dtype:
                x = self._scratch.take(f"rounded_{number}", x.shape, weight).copy_(x)
            out = self._scratch.take(f"layer_{number}", (*weight.shape[:-1], x.shape[-1]), weight)
            x = torch.baddbmm(bias, weight, x, out=out)
        return x

    def _new_space(self, num_noise: int, num_candidates: int, action_dim: int) -> _Space:
        (first, _), (last, _) = self._layers[0], self._layers[-1]
        num_theta, _, num_inputs = first.shape
        particles, num_outputs = (num_noise, num_candidates), self._num_outputs
        x = self._scratch.take("inputs", (num_theta, num_inputs, num_noise * num_candidates), first)
        features, actions = (
            x.view(num_theta, num_inputs, *particles).movedim(1, -1).tensor_split([num_inputs - action_dim], -1)
        )
        y = self._network(x.zero_()).view(num_theta, -1, *particles)
        shift, factor = (
            self._scratch.take(name, (num_theta, num_outputs, num_noise, 1), last) for name in ("shift", "factor")
        )
        return _Space(x, features, actions, y[:, :num_outputs], y[:, num_outputs:], shift, factor)


def _affine(theta: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """Weight [K, outputs, inputs] and bias [K, outputs, 1] of a layer."""
    weight, bias = theta[f"weight_{layer}"].mT, theta[f"bias_{layer}"].unsqueeze(-1)
    log_scale = theta.get(f"log_scale_{layer}")
    return (weight if log_scale is None else weight * log_scale.exp()[..., None, None]), bias
