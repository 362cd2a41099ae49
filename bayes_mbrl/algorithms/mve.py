"""Model-based value expansion: the critics' targets look H imagined steps further before they trust a critic.

    T_t = r_t + γ (T_{t+1} − α log π(a_{t+1} | s_{t+1})) for t = H, …, 0 with T_{H+1} = min Q(s_{H+1}, a_{H+1})

r_0 is real, what follows is imagined. With the TD-k trick the critics learn T_t at all of (s_0, a_0), …, (s_H, a_H): so
they are trusted at s_{H+1} only where they were trained. H = 0 is the plain actor-critic, bit for bit.

Source: Feinberg et al., Model-Based Value Expansion (2018), eq. 3 and section 3.1, here with the entropy of soft
actor-critic. Only real transitions are learned from: the model extends their targets and nothing else. Its steps:

1. run the base policy to collect D                           learning.py, `num_base_steps`
2. learn the dynamics, here the posterior p(θ | D)            learning.py, every `refit_every` steps
3. sample transitions from D, and go on H steps with π        dyna_style.py, `ValueExpansion._imagine`
4. critics learn T_t at all of these states                   `ValueExpansion.__call__`, actor_critic.py
5. run π, appending the visited (s, a, s') to D               learning.py

Axes: N transitions, K parameter samples, S state, A action.
"""

import dataclasses
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bayes_mbrl.algorithms.actor_critic import Expansion, Regression, SoftActorCritic, one_step
from bayes_mbrl.algorithms.sac import SAC
from bayes_mbrl.imagination import Imagined, World, gathered, imagine_policy, spread_over_theta
from bayes_mbrl.replay import Batch


@dataclasses.dataclass(frozen=True)
class MVE(SAC):
    """Settings of the algorithm: those of SAC, and how far its targets look."""

    propagations: ClassVar[tuple[str, ...]] = ("ts-infinity", "ts-1")
    updates_per_step: Annotated[int, Gt(0)] = 10
    horizon: Annotated[int, Ge(0)] = 3
    """H; 0: soft actor-critic as it is."""
    refit_every: Annotated[int, Gt(0)] | None = 200
    """Environment steps between two fits of the posterior; None: after each episode."""

    def expansion(self, world: World | None) -> Expansion | None:
        """See `SAC.expansion`."""
        return None if world is None else ValueExpansion(world, self.horizon)


@dataclasses.dataclass(frozen=True, eq=False)
class ValueExpansion:
    """An `Expansion` of a batch by `horizon` imagined steps, each row with one θ."""

    world: World
    horizon: Annotated[int, Ge(0)]

    @torch.no_grad()
    def __call__(self, learner: SoftActorCritic, batch: Batch, generator: torch.Generator) -> Regression:
        """All real (s, a), and all imagined ones before an end; rows whose imagination diverges are left out."""
        if self.horizon == 0:
            return one_step(learner, batch, generator)
        imagined, log_density = self._imagine(learner, batch, generator)
        soft_value = learner.value(imagined.states[-1], generator=generator)
        going_on = torch.cat([~batch.terminated[None], imagined.lived & ~imagined.terminated])
        sound = (imagined.lived | ~going_on[:-1].cummin(0).values).all(0)
        states, actions, targets = [], [], []
        for t in reversed(range(self.horizon)):
            reward = imagined.rewards[t]
            target = torch.where(imagined.terminated[t], reward, reward + learner.discount * soft_value)
            counts = imagined.lived[t] & ~batch.terminated & sound
            states.append(imagined.states[t][counts])
            actions.append(imagined.actions[t][counts])
            targets.append(target[counts])
            soft_value = target - learner.temperature() * log_density[t]
        target = torch.where(batch.terminated, batch.reward, batch.reward + learner.discount * soft_value)
        states.append(batch.state[sound])
        actions.append(batch.action[sound])
        targets.append(target[sound])
        return Regression(torch.cat(states), torch.cat(actions), torch.cat(targets))

    def _imagine(self, learner: SoftActorCritic, batch: Batch, generator: torch.Generator) -> tuple[Imagined, Tensor]:
        """Trajectories [H, N, ...] from the batch's next states, and log π of their actions [H, N]."""
        starts = spread_over_theta(batch.next_state, self.world.num_theta)
        randomness = self.world.draw(self.horizon, starts, batch.action.shape[1], generator=generator)
        imagined = imagine_policy(self.world, learner.policy, starts, **randomness._asdict())
        _, log_density = learner.act(imagined.states[:-1], randomness.policy_noise)
        num_rows = len(batch.reward)
        return Imagined(*(gathered(part, num_rows) for part in imagined)), gathered(log_density, num_rows)
