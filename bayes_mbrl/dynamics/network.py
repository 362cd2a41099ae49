"""A Bayesian network as dynamics: standardised (features(s), a) → standardised change of state Δs.

Axes: K parameter samples, S state, A action; see base.py. Source: lecture; targets Δs: Nagabandi et al. (2018), eq. 2.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics, Sampler
from bayes_mbrl.dynamics.folded import FoldedNetwork
from bayes_mbrl.dynamics.standardise import Standardiser, negligible_std
from bayes_mbrl.inference.likelihoods import LikelihoodName
from bayes_mbrl.inference.network import Activation, BayesianNetwork, Noise
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers, Scratch

Features = Callable[[Tensor], Tensor]


def identity(state: Tensor) -> Tensor:
    """The observation itself as the network's input."""
    return state


class NetworkDynamics(Dynamics):
    """s' = s + Δ, Δ = mean + std · ε from a `BayesianNetwork` on standardised inputs and targets.

    A learned reward is one more target, standardised too; a learned termination is a binary one, the last. It is
    fitted whether or not there are terminal transitions, so that a warm start has the same parameters; as long as
    there is none it is not used: see `Dynamics.termination`.
    """

    def __init__(
        self,
        model: BayesianNetwork,
        *,
        features: Features,
        input_standardiser: Standardiser,
        target_standardiser: Standardiser,
        learns_reward: bool,
        has_ends: bool = False,
    ) -> None:
        """The model's binary output, if it has one, is the termination; has_ends: of some transition it was true."""
        self.model: BayesianNetwork = model
        self.likelihood = model.likelihood
        self.features = features
        self.inputs = input_standardiser
        self.targets = target_standardiser
        self.learns_reward = learns_reward
        self.learns_termination = model.num_binary > 0
        self.output_dim = len(target_standardiser.mean)
        self.state_dim = self.continuous_dim - int(learns_reward)
        self.reward = self._learned_reward if learns_reward else None
        self.termination = learned_termination if self.learns_termination and has_ends else None

    @classmethod
    def from_data(
        cls,
        transitions: Transitions,
        *,
        features: Features = identity,
        learns_reward: bool = False,
        learns_termination: bool = False,
        hidden: Sequence[int] = (50, 50),
        activation: Activation = "silu",
        noise: Noise = "heteroscedastic",
        noise_std: float = 0.05,
        min_std: float = 1e-3,
        max_std: float = 2.0,
        prior_scale: float = 1.0,
        prior_scale_log_std: float = 0.0,
        likelihood: LikelihoodName = "normal",
        degrees_of_freedom: float = 4.0,
    ) -> Self:
        """The untrained dynamics whose standardisation is fitted on all of these transitions.

        The bounds on the noise are in units of the standardised targets; see `BayesianNetwork` for the others.
        """
        inputs = _raw_inputs(transitions.state, transitions.action, features)
        continuous = _raw_targets(transitions, learns_reward)
        targets = Standardiser.fitted(continuous, constant_std=_negligible(transitions, learns_reward))
        if learns_termination:  # 0 or 1 as it is
            targets = Standardiser(_with_one_more(targets.mean, 0.0), _with_one_more(targets.std, 1.0))
        model = BayesianNetwork(
            inputs.shape[-1],
            len(targets.mean),
            hidden=hidden,
            activation=activation,
            noise=noise,
            noise_std=noise_std,
            min_std=min_std,
            max_std=max_std,
            prior_scale=prior_scale,
            prior_scale_log_std=prior_scale_log_std,
            likelihood=likelihood,
            degrees_of_freedom=degrees_of_freedom,
            num_binary=int(learns_termination),
            dtype=inputs.dtype,
            device=inputs.device,
        )
        return cls(
            model,
            features=features,
            input_standardiser=Standardiser.fitted(inputs),
            target_standardiser=targets,
            learns_reward=learns_reward,
            has_ends=bool(transitions.terminated.any()),
        )

    def regression_data(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """x: standardised (features(s), a) [N, D]; y: standardised Δs, reward, and 1 where terminal, as far as they
        are learned [N, O]."""
        x = self.inputs(_raw_inputs(transitions.state, transitions.action, self.features))
        y = _raw_targets(transitions, self.learns_reward)
        if self.learns_termination:
            y = torch.cat([y, transitions.terminated.to(y).unsqueeze(-1)], -1)
        return x, self.targets(y)

    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Dynamics.predict`."""
        states = states[..., : self.state_dim]
        x = _raw_inputs(states, actions, self.features, scratch=scratch)
        out = scratch.take("inputs", x.shape, x)
        x = torch.div(torch.sub(x, self.inputs.mean, out=out), self.inputs.std, out=out)
        mean, std = self.model.predict(theta, x.flatten(1, -2), scratch=scratch)
        shape = (*states.shape[:-1], mean.shape[-1])
        mean, std = mean.view(shape), std.view(shape)
        out = scratch.take("mean", shape, mean)
        mean = torch.addcmul(self.targets.mean, self.targets.std, mean, out=out)
        mean[..., : self.state_dim].add_(
            states
        )  # in place is safe under autograd: addcmul keeps its inputs, not its result
        return mean, torch.mul(std, self.targets.std, out=scratch.take("scaled_std", shape, std))

    def sampler(self, theta: Mapping[str, Tensor], noise: Tensor, *, scratch: Scratch, bf16: bool = False) -> Sampler:
        """See `Dynamics.sampler`; bf16 is without gradients."""
        if isinstance(scratch, Buffers):
            return FoldedNetwork(
                self.model,
                theta,
                noise,
                features=self.features,
                inputs=self.inputs,
                targets=self.targets,
                state_dim=self.state_dim,
                scratch=scratch,
                bf16=bf16,
            )
        if bf16:
            raise ValueError("bf16 is for scores without gradients: take another planner, or rollout.bf16=false")
        return super().sampler(theta, noise, scratch=scratch)

    def to(self, device: torch.device) -> Self:
        """See `Dynamics.to`."""
        moved = copy.copy(self)
        moved.model = self.model.to(device)
        moved.inputs, moved.targets = (
            Standardiser(scale.mean.to(device), scale.std.to(device)) for scale in (self.inputs, self.targets)
        )
        return moved

    def check_bf16(self) -> None:
        """See `Dynamics.check_bf16`; with one hidden layer or none it changes nothing."""

    def log_likelihood(self, theta: Mapping[str, Tensor], transitions: Transitions) -> Tensor:
        """See `Dynamics.log_likelihood`."""
        x, y = self.regression_data(transitions)
        return self.model.log_likelihood(theta, x, y) - torch.log(self.targets.std).sum()

    def _learned_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state[..., self.state_dim]


def learned_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Whether the latent number of a learned termination, the last dimension of a drawn s', is above 0 [...]."""
    return next_state[..., -1] > 0


def _raw_inputs(states: Tensor, actions: Tensor, features: Features, *, scratch: Scratch = NO_SCRATCH) -> Tensor:
    inputs = features(states)
    shape = (*states.shape[:-1], inputs.shape[-1] + actions.shape[-1])
    return torch.cat([inputs, actions.expand(*states.shape[:-1], -1)], -1, out=scratch.take("inputs", shape, inputs))


def _negligible(transitions: Transitions, learns_reward: bool) -> Tensor:
    known = [transitions.state, transitions.reward.unsqueeze(-1)] if learns_reward else [transitions.state]
    return negligible_std(torch.cat(known, -1))


def _raw_targets(transitions: Transitions, learns_reward: bool) -> Tensor:
    change = transitions.next_state - transitions.state
    return torch.cat([change, transitions.reward.unsqueeze(-1)], -1) if learns_reward else change


def _with_one_more(values: Tensor, value: float) -> Tensor:
    return torch.cat([values, values.new_full((1,), value)])
