"""Normalised advantage functions: Q-learning for continuous actions, since the best action is known in closed form.

    Q(s, a) = V(s) − ½ (a − μ(s))ᵀ L(s) L(s)ᵀ (a − μ(s)),    argmax_a Q(s, a) = μ(s)

L is lower triangular with a positive diagonal. Source: Gu et al., Continuous Deep Q-Learning with Model-based
Acceleration (2016), eq. 3 to 5 and algorithm 1. Axes: N transitions, S state, A action.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.inference.base import check_settings, seeded_global_state
from bayes_mbrl.policies import Policy, fully_connected
from bayes_mbrl.replay import Batch


class NormalisedAdvantage(Policy):
    """V, μ and L from one fully connected network; as a policy it acts by μ and explores around it.

    Actions are measured from the middle of their bounds in units of half their range, so that L starts out alike for
    all of them.
    """

    def __init__(
        self, state_dim: int, low: Tensor, high: Tensor, hidden: Sequence[int], exploration_std: float
    ) -> None:
        """`exploration_std` is that of the noise that `sample` adds, in units of half the range."""
        super().__init__(low, high)
        num_actions = len(low)
        self._sizes = [1, num_actions, num_actions * (num_actions + 1) // 2]
        self.exploration_std = exploration_std
        self.network = fully_connected([state_dim, *hidden, sum(self._sizes)])

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """V [...], tanh⁻¹ of μ [..., A] and L [..., A, A], in units of half the range: states [..., S]."""
        value, mean, entries = self.network(states).split(self._sizes, dim=-1)
        num_actions = mean.shape[-1]
        factor = entries.new_zeros(*entries.shape[:-1], num_actions, num_actions)
        rows, columns = torch.tril_indices(num_actions, num_actions)
        diagonal = torch.where(rows == columns, entries.clamp(max=10).exp(), entries)
        factor[..., rows, columns] = diagonal
        return value.squeeze(-1), mean, factor

    def unsquashed(self, states: Tensor) -> tuple[Tensor, None]:
        """See `Policy.unsquashed`; without the exploration."""
        return self.heads(states)[1], None

    def sample(self, states: Tensor, noise: Tensor) -> Tensor:
        """μ(s) + exploration_std · noise in units of half the range, clipped to the bounds."""
        share = (torch.tanh(self.unsquashed(states)[0]) + self.exploration_std * noise).clamp(-1, 1)
        return torch.addcmul(self.centre, self.half_range, share)

    def value(self, states: Tensor) -> Tensor:
        """V(s) = max_a Q(s, a): [..., S] → [...]."""
        return self.heads(states)[0]

    def q(self, states: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a): [..., S], [..., A] → [...]."""
        value, mean, factor = self.heads(states)
        away = (actions - self.centre) / self.half_range - torch.tanh(mean)
        return value - 0.5 * (factor.mT @ away.unsqueeze(-1)).square().sum((-2, -1))


class NAFLearner(GradientLearner):
    """The network, its slow copy, and Q-learning with both."""

    @check_settings
    def __init__(
        self,
        state_dim: int,
        low: Tensor,
        high: Tensor,
        *,
        generator: torch.Generator,
        hidden: Sequence[int] = (200, 200),
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        discount: Annotated[float, Ge(0), Le(1)] = 0.99,
        target_rate: Annotated[float, Gt(0), Le(1)] = 0.001,
        exploration_std: Annotated[float, Ge(0)] = 0.3,
        max_gradient_norm: Annotated[float, Gt(0)] = 10.0,
    ) -> None:
        """low and high [A] bound the actions; `target_rate` is τ of the slow copy, `discount` γ."""
        super().__init__()
        with seeded_global_state(generator):  # torch.nn draws initial weights from the global state
            self.policy = NormalisedAdvantage(state_dim, low, high, hidden, exploration_std)
            self.slow = NormalisedAdvantage(state_dim, low, high, hidden, exploration_std)
        self.slow.load_state_dict(self.policy.state_dict())
        self.slow.requires_grad_(False)
        self.discount = discount
        self.target_rate = target_rate
        self.modules = {"network": self.policy, "slow": self.slow}
        self.optimise("network", self.policy.parameters(), learning_rate=learning_rate, max_norm=max_gradient_norm)

    def update(self, batch: Batch) -> Tensor:
        """One gradient step on the squared error of Q; returns that error's mean []."""
        with torch.no_grad():
            following = self.slow.value(batch.next_state)
            target = torch.where(batch.terminated, batch.reward, batch.reward + self.discount * following)
        loss = (self.policy.q(batch.state, batch.action) - target).square().mean()
        self.descend("network", loss)
        self.follow("slow", "network", self.target_rate)
        return loss.detach()
