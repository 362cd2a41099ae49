"""A dynamics and a reward that can be differentiated: to follow plans, and to look at the slopes along them.

Axes: B a batch of points, C plans, L trials of each, H horizon, S state, A action, D = S + A.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
"""(state [B, S], action [B, A]) → next state [B, S], differentiable, each row by itself."""
Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [B, S], action [B, A], next state [B, S]) → reward [B], likewise."""
Termination = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Likewise → bool [B]."""


@dataclass(frozen=True, eq=False)
class Model:
    """What is planned with. Derivatives are by actions of range 2: a = middle + half · u."""

    step: Step
    reward: Reward
    termination: Termination | None
    """None: no episode ends."""
    low: Tensor
    """[A]"""
    high: Tensor
    """[A]"""

    @property
    def half(self) -> Tensor:
        """Half of the range [A]."""
        return 0.5 * self.high - 0.5 * self.low

    @torch.no_grad()
    def follow(
        self, start: Tensor, plans: Tensor, *, around: Tensor | None = None, gains: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(plans as executed [L, C, H, A], within bounds; states [L, C, H, S]; returns [L, C]) from `start` [C, S].

        With `gains` [C, H, A, S] the actions follow the states that differ from those `around` [C, H, S].
        """
        num_trials, num_starts, horizon = plans.shape[:3]
        now = start.expand(num_trials, num_starts, -1)
        total, alive = plans.new_zeros(now.shape[:-1]), torch.ones_like(now[..., 0], dtype=torch.bool)
        actions, states = [], []
        for t in range(horizon):
            action = plans[:, :, t]
            if around is not None and gains is not None:
                action = action + self.half * (gains[:, t] @ (now - around[:, t])[..., None])[..., 0]
            action = torch.minimum(torch.maximum(action, self.low), self.high)
            flat = now.flatten(0, 1), action.flatten(0, 1)
            following = self.step(*flat)
            gained = self.reward(*flat, following).view(num_trials, num_starts)
            total = torch.where(alive, total + gained, total)
            actions.append(action)
            states.append(now)
            if self.termination is not None:
                alive = alive & ~self.termination(*flat, following).view(num_trials, num_starts)
            now = following.view(num_trials, num_starts, -1)
        return torch.stack(actions, 2), torch.stack(states, 2), total

    def derivatives(self, plans: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(∂ next state [C, H, S, D], ∂ reward [C, H, D], ∂² reward [C, H, D, D]) by (state, u), in float64.

        plans [C, H, A], states [C, H, S]; the reward as a function of state and u alone, next state put in.
        Raises ValueError when there are none.
        """
        num_starts, horizon, state_dim = states.shape
        with torch.enable_grad():
            point = torch.cat([states, torch.zeros_like(plans)], -1).flatten(0, 1).requires_grad_()
            state = point[:, :state_dim]
            action = plans.flatten(0, 1) + self.half * point[:, state_dim:]
            following = self.step(state, action)
            rewards = self.reward(state, action, following)
            for name, value in (("step", following), ("reward", rewards)):
                if not value.requires_grad:
                    raise ValueError(
                        f"iLQR climbs along derivatives, and the {name} function has none by state and action: it is "
                        "constant or not written in torch; take a planner that needs scores alone, like cem"
                    )
            jacobian = _rows(following, point)
            (gradient,) = torch.autograd.grad(rewards.sum(), point, create_graph=True)
            hessian = _rows(gradient, point) if gradient.requires_grad else torch.zeros_like(jacobian[:, :1])
        hessian = hessian.expand(-1, point.shape[1], -1)
        if self.termination is not None:
            ended = self.termination(state.detach(), action.detach(), following.detach()).view(num_starts, horizon)
            alive = (ended.cumsum(1) - ended.to(torch.long) == 0).flatten().to(gradient.dtype)
            gradient, hessian = gradient * alive[:, None], hessian * alive[:, None, None]
        hessian = 0.5 * (hessian + hessian.mT)
        jacobian, gradient, hessian = (
            x.detach().double().view(num_starts, horizon, *x.shape[1:]) for x in (jacobian, gradient, hessian)
        )
        return jacobian, gradient, hessian


def _rows(outputs: Tensor, point: Tensor) -> Tensor:
    """∂ outputs [B, O] / ∂ point [B, D], row by row: [B, O, D]."""
    basis = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    basis = basis[:, None, :].expand(-1, len(outputs), -1)
    (result,) = torch.autograd.grad(
        outputs, point, basis, is_grads_batched=True, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return result.transpose(0, 1)
