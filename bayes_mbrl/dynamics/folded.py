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
from bayes_mbrl.inference.network import BINARY_STD, BayesianNetwork
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
    layers: tuple[tuple[Tensor, Tensor, Tensor | None, Tensor], ...]
    """Of each layer weight, bias, its input in another precision if it needs it, and its output."""
    mean: Tensor
    """[K, O, M, C], the network's first outputs: s' − s, and what else is learned."""
    raw: Tensor
    """[K, O or 0, M, C], the others, of a learned std."""
    following: tuple[Tensor, Tensor]
    """[K, O, M, C] each: results in turn, since a reward needs s and s' side by side."""


class FoldedNetwork:
    """s' = s + Δ(s, a) as `NetworkDynamics` has it, with θ, noise [H, K, M, 1, O] and buffers bound: a `Sampler`.

    Only the mean of the inputs stays outside of the weights: of a badly scaled input a bias would take the digits that
    tell two states apart. With `bf16` the products of hidden layers with one another, and what goes into them, have 8
    bits of precision; first layer, last layer and states keep those of θ.
    """

    def __init__(
        self,
        model: BayesianNetwork,
        theta: Mapping[str, Tensor],
        noise: Tensor,
        *,
        features: Callable[[Tensor], Tensor],
        inputs: Standardiser,
        targets: Standardiser,
        state_dim: int,
        scratch: Buffers,
        bf16: bool = False,
    ) -> None:
        self._features, self._state_dim = features, state_dim
        self._inputs_mean = inputs.mean
        self._activate, self._scratch = model.activate_in_place, scratch
        layers = [_affine(theta, layer) for layer in range(model.num_layers)]
        layers[0] = layers[0][0] / inputs.std, layers[0][1]
        scale, shift = targets.std[:, None], targets.mean[:, None]
        self._least: float | None = None
        if model.noise == "heteroscedastic":  # std = max_std · (min_std / max_std + sigmoid(raw − log max_std))
            self._least, std = model.min_std / model.max_std, model.max_std * targets.std
            scale = torch.cat([scale, torch.ones_like(scale)])
            shift = torch.cat([shift, torch.full_like(shift, -math.log(model.max_std))])
            if model.num_binary:  # no raw number makes their std: one that is always 0 does
                weight, bias = (torch.nn.functional.pad(part, (0, 0, 0, model.num_binary)) for part in layers[-1])
                layers[-1] = weight, bias
                std[-model.num_binary :] = BINARY_STD / (self._least + 1 / (1 + model.max_std))
        else:
            _, std = model.predict(theta, targets.mean.new_zeros(1, model.input_dim))
            std = (std * targets.std)[:, None]
        self._noise = (noise * std).movedim(-1, -3).unbind(0)
        layers[-1] = layers[-1][0] * scale, layers[-1][1] * scale + shift
        if bf16:
            layers[1:-1] = [(weight.bfloat16(), bias.bfloat16()) for weight, bias in layers[1:-1]]
        self._layers = [(weight.contiguous(), bias) for weight, bias in layers]
        self._space: _Space | None = None

    def __call__(self, step: int, states: Tensor, actions: Tensor) -> Tensor:
        """See `Sampler`; states may have more numbers than S."""
        if states.shape[-1] > self._state_dim:
            states = states[..., : self._state_dim]
        space = self._space
        if space is None or space.actions.shape[2:] != actions.shape:
            space = self._space = self._new_space(*actions.shape)
        num_features = space.features.shape[-1]
        torch.sub(self._features(states), self._inputs_mean[:num_features], out=space.features)
        torch.sub(actions.expand(space.actions.shape), self._inputs_mean[num_features:], out=space.actions)
        x = space.x
        for number, (weight, bias, rounded, out) in enumerate(space.layers):
            x = self._activate(x) if number else x
            x = x if rounded is None else rounded.copy_(x)
            x = torch.baddbmm(bias, weight, x, out=out)
        following = space.following[step % 2]
        if self._least is None:
            torch.add(space.mean, self._noise[step], out=following)
        else:
            torch.addcmul(space.mean, space.raw.sigmoid_().add_(self._least), self._noise[step], out=following)
        following = following.movedim(1, -1)
        changing = following if following.shape[-1] == self._state_dim else following[..., : self._state_dim]
        changing.add_(states)
        return following

    def _new_space(self, num_candidates: int, action_dim: int) -> _Space:
        num_theta, num_outputs, num_noise, _ = self._noise[0].shape
        first, take = self._layers[0][0], self._scratch.take
        num_inputs, count = first.shape[-1], num_noise * num_candidates
        x = out = take("inputs", (num_theta, num_inputs, count), first)
        columns = x.view(num_theta, num_inputs, num_noise, num_candidates).movedim(1, -1)
        features, actions = columns.tensor_split([num_inputs - action_dim], -1)
        layers = []
        for number, (weight, bias) in enumerate(self._layers):
            rounded = take(f"rounded_{number}", out.shape, weight) if out.dtype != weight.dtype else None
            out = take(f"layer_{number}", (num_theta, weight.shape[1], count), weight)
            layers.append((weight, bias, rounded, out))
        y = out.view(num_theta, -1, num_noise, num_candidates)
        mean, raw = y[:, :num_outputs], y[:, num_outputs:]
        following = take("states_0", mean.shape, mean), take("states_1", mean.shape, mean)
        return _Space(x, features, actions, tuple(layers), mean, raw, following)


def _affine(theta: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """Weight [K, outputs, inputs] and bias [K, outputs, 1] of a layer."""
    weight, bias = theta[f"weight_{layer}"].mT, theta[f"bias_{layer}"].unsqueeze(-1)
    log_scale = theta.get(f"log_scale_{layer}")
    return (weight if log_scale is None else weight * log_scale.exp()[..., None, None]), bias
