"""The contract of a dynamics: p(s' | s, a, θ), made of a regression model and of what turns transitions into its data.

Axes: K parameter samples, S state, A action; "..." are any axes of states, [M, C] in a rollout.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.likelihoods import NORMAL, Likelihood
from bayes_mbrl.inference.regression import Regression
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch

RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A], next_state [..., S]) → reward [...]"""
TerminationFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Likewise → bool [...]"""


class Sampler(Protocol):
    """`Dynamics.sample` with θ, noise and buffers bound."""

    def __call__(self, step: int, states: Tensor, actions: Tensor) -> Tensor:
        """s' [K, M, C, S] of states [K, M, C, S] and actions [C, A], with the noise of this step of the rollout.

        With buffers the result lasts until the step after the next one.
        """


class Dynamics(ABC):
    """s' = mean(s, a, θ) + std(s, a, θ) · ε, independent over the dimensions of s', ε distributed as `likelihood` says.

    A dynamics that learns the reward too has it as one more dimension behind s', and one that learns the termination
    has that as the last: a latent number, mean + ε, that is above 0 where s' is terminal, so P(terminated) = Φ(mean /
    std). `states` may carry these dimensions, which no prediction depends on.
    """

    model: Regression
    """What an inference fits: `fit(dynamics.model, *dynamics.regression_data(transitions), ...)`."""
    state_dim: int
    """S."""
    output_dim: int
    """Dimensions of a prediction: S, and one more for each of a learned reward and a learned termination."""
    learns_reward: bool = False
    learns_termination: bool = False
    likelihood: Likelihood = NORMAL
    """Of ε, which has variance 1."""
    reward: RewardFunction | None = None
    """Where the dynamics brings one along, or learns it: used if the environment's is not known."""
    termination: TerminationFunction | None = None
    """Likewise. None, too, of one that learns it from transitions none of which is terminal: of where episodes end
    nothing is known then, and a task of negative rewards would be drawn to ends that are only imagined."""

    @property
    def continuous_dim(self) -> int:
        """Dimensions of a prediction that have a density, the first ones: all but a learned termination."""
        return self.output_dim - int(self.learns_termination)

    @abstractmethod
    def regression_data(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """The model's inputs x [N, D] and targets y [N, O]."""

    @abstractmethod
    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """Mean and std of s' given each θ_k, in the environment's units.

        theta {name: [K, ...]}, states [K, ..., S], actions [..., A] or [K, ..., A] → two tensors [K, ..., S].
        With a `scratch`, the results lie in its buffers and last until the next call.
        """

    def predict_targets(self, theta: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the targets of `regression_data`, in their units: x [N, D] → two tensors [K, N, O]."""
        return self.model.predict(theta, x)

    @abstractmethod
    def log_likelihood(self, theta: Mapping[str, Tensor], transitions: Transitions) -> Tensor:
        """log p(s'_i | s_i, a_i, θ_k) [K, N], a density in the environment's units, in nats a transition.

        A learned reward counts as a dimension; a learned termination by its log probability.
        """

    def termination_probability(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> Tensor:
        """P(s' is terminal | s, a, θ_k) where that is learned: arguments as in `predict` → [K, ...].

        Its spread over K is epistemic. Raises TypeError where no termination is learned.
        """
        if not self.learns_termination:
            raise TypeError("this dynamics learns no termination: see its attribute `termination`")
        mean, std = self.predict(theta, states, actions, scratch=scratch)
        return torch.special.ndtr(mean[..., -1] / std[..., -1])  # type: ignore[no-any-return]

    def parameters(self, theta: Mapping[str, Tensor]) -> Theta:
        """What θ says about quantities that have names and units {name: [K, ...]}; none of a network."""
        return {}

    def sample(
        self,
        theta: Mapping[str, Tensor],
        states: Tensor,
        actions: Tensor,
        noise: Tensor,
        *,
        scratch: Scratch = NO_SCRATCH,
        name: str = "next_states",
    ) -> Tensor:
        """s' = mean(s, a, θ) + std(s, a, θ) · noise: a pure function; noise [K, ..., S] is ε, see `likelihood`.

        With a `scratch`, the result lies in its buffer `name`: it lasts until that name is used again.
        """
        mean, std = self.predict(theta, states, actions, scratch=scratch)
        return torch.addcmul(mean, std, noise, out=scratch.take(name, mean.shape, mean))

    def sampler(self, theta: Mapping[str, Tensor], noise: Tensor, *, scratch: Scratch, bf16: bool = False) -> Sampler:
        """`sample` for this θ and noise [H, K, M, 1, S] at every step of a rollout: what can be prepared once, is.

        With `bf16` products of hidden layers are less precise, and faster where the processor can. Raises ValueError
        where there are none.
        """
        if bf16:
            self.check_bf16()

        def sample(step: int, states: Tensor, actions: Tensor) -> Tensor:
            return self.sample(theta, states, actions, noise[step], scratch=scratch, name=f"states_{step % 2}")

        return sample

    def check_bf16(self) -> None:
        """Raise ValueError where there are no hidden layers."""
        raise ValueError(f"bf16 is for the hidden layers of a network, and {type(self).__name__} has none")

    def to(self, device: torch.device) -> "Dynamics":
        """The same with its tensors on this device. Raises ValueError where it is written for the CPU."""
        raise ValueError(f"{type(self).__name__} is for the CPU: write device=cpu")
