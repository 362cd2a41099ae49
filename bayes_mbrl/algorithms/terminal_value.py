"""V(s): what a policy will gain after an imagined trajectory was cut short, learned from such trajectories themselves.

    minimise Σ_t (V(s_t) − G_t)²,  G_t = r_t + γ G_{t+1},  G_H = V̄(s_H), or 0 where the episode has ended,

over the states s_0 … s_{H−1} of imagined trajectories that did not diverge; V̄ follows V slowly. The policy's gradient
goes through V̄.
Source: Heess et al., Learning Continuous Control Policies by Stochastic Value Gradients (2015), SVG(n); Clavera et al.,
Model-Augmented Actor-Critic: Backpropagating through Paths (2020).
Axes: H steps, K parameter samples, B starts, S state, F inputs of the network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bayes_mbrl.imagination import Imagined
from bayes_mbrl.inference.base import seeded_global_state
from bayes_mbrl.policies import fully_connected


class StateValue(nn.Module):
    """V = scale · network(inputs)."""

    scale: Tensor

    def __init__(self, num_inputs: int, *, hidden: Sequence[int], generator: torch.Generator) -> None:
        """Equal generator states make equal networks."""
        super().__init__()
        with seeded_global_state(generator):
            self.network = fully_connected([num_inputs, *hidden, 1])
        self.register_buffer("scale", torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., F] → [...]."""
        value: Tensor = self.scale * self.network(inputs).squeeze(-1)
        return value


@torch.no_grad()
def bootstrapped_returns(imagined: Imagined, value: Callable[[Tensor], Tensor], *, discount: float) -> Tensor:
    """G_t [H, K, B] of the steps that were lived; of a trajectory that diverged it means nothing."""
    going_on = imagined.lived[-1] & ~imagined.terminated[-1]
    following = torch.where(going_on, value(torch.where(going_on.unsqueeze(-1), imagined.states[-1], 0)), 0)
    returns = []
    for reward, terminated in zip(imagined.rewards.flip(0), imagined.terminated.flip(0), strict=True):
        following = reward + discount * torch.where(terminated, 0, following)
        returns.append(following)
    return torch.stack(returns[::-1])


def mean_squared_error(imagined: Imagined, value: Callable[[Tensor], Tensor], returns: Tensor) -> Tensor:
    """Of V(s_t) against `returns` [H, K, B], over the steps that were lived of what did not diverge: []."""
    lived = imagined.lived & imagined.is_sound
    states = torch.where(lived.unsqueeze(-1), imagined.states[:-1].detach(), 0)
    error = torch.where(lived, value(states) - returns, 0)
    return error.square().sum() / lived.sum().clamp(min=1)
