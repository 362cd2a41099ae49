"""Backpropagation through the learned dynamics into a policy: version 2.0 of the lecture, whose steps are:

1. run the base policy to collect D                                         learning.py
2. learn the dynamics, here the posterior p(θ | D)                          learning.py
3. backpropagate through f into the policy to optimise π                    `PolicyBackpropLearner.after_fit`
4. run π, appending the visited tuples to D                                 learning.py

    maximise (1/K) Σ_k E[Σ_t γ^t r(s_t, a_t)],  s_{t+1} = f(s_t, a_t, θ_k, ε_t),  a_t = π(s_t, ε'_t)

All randomness is drawn before the rollout (reparameterisation), so that the return is a function of the policy's
parameters with a derivative: θ and noise are those of one rollout, drawn afresh for the next gradient step or held for
all of them ("PEGASUS", Ng & Jordan 2000). With moment matching between the steps this is Deep PILCO (Gal, McAllister &
Rasmussen 2016). The product of Jacobians over time vanishes or explodes: the norm of the gradient by each step's action
is told, the whole gradient is clipped, and the horizon can be cut short with a value at its end (terminal_value.py).

Axes: H steps, K parameter samples, B starts of each, S state, A action.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.algorithms.learner import Learner, LearningAlgorithm, Task, check_continuous
from bayes_mbrl.algorithms.policy_agent import PolicyAgent
from bayes_mbrl.algorithms.terminal_value import StateValue, bootstrapped_returns, mean_squared_error
from bayes_mbrl.algorithms.trajectories import ADVICE, Starts, divergence_notes, draw_starts
from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import Imagined, Randomness, World, imagine_policy, returns_of
from bayes_mbrl.inference.base import check_settings
from bayes_mbrl.policies import PolicyKind, StandardisedPolicy, make_policy


@dataclasses.dataclass(frozen=True)
class Improvement:
    """Of one gradient step."""

    imagined_return: Tensor
    """[]: the mean over θ, starts and noise, before the step, of the trajectories that did not diverge"""
    gradient_norm: Tensor
    """[]: of the policy's gradient, before it was clipped"""
    action_gradient_norms: Tensor
    """[H]: root mean square over particles of ‖∂R / ∂a_t‖, the way through later actions included"""
    share_sound: Tensor
    """[]: of the imagined trajectories those that did not diverge; nothing is learned from the others"""
    value_loss: Tensor | None = None
    """[]: of the terminal value, in units of its scale²"""


class PolicyBackpropLearner(GradientLearner, Learner):
    """A policy that follows the gradient of its imagined return."""

    @check_settings
    def __init__(
        self,
        policy: StandardisedPolicy,
        *,
        horizon: Annotated[int, Gt(0)] = 40,
        learning_rate: Annotated[float, Gt(0)] = 3e-3,
        final_learning_rate: Annotated[float, Gt(0)] | None = None,
        discount: Annotated[float, Ge(0), Le(1)] = 0.99,
        max_gradient_norm: Annotated[float, Gt(0)] = 10.0,
        num_gradient_steps: Annotated[int, Gt(0)] = 250,
        num_starts: Annotated[int, Gt(0)] = 10,
        starts: Starts = "visited",
        fresh_randomness: bool = True,
        saturation_price: Annotated[float, Ge(0)] = 0.0,
        gradient_decay: Annotated[float, Gt(0), Le(1)] = 1.0,
        max_state_gradient: Annotated[float, Gt(0)] | None = None,
        value: StateValue | None = None,
        value_rate: Annotated[float, Gt(0), Le(1)] = 0.02,
    ) -> None:
        """`value` stands for what comes after the horizon; what the gradient goes through follows it by `value_rate`
        a step. Raises ValueError for settings out of range.
        """
        super().__init__()
        self.policy = policy
        self.horizon, self.discount = horizon, discount
        self._num_gradient_steps, self._num_starts, self._starts = num_gradient_steps, num_starts, starts
        self._fresh, self._saturation_price, self._value_rate = fresh_randomness, saturation_price, value_rate
        self._gradient_decay, self._max_state_gradient = gradient_decay, max_state_gradient
        self._learning_rates = learning_rate, learning_rate if final_learning_rate is None else final_learning_rate
        self._told: list[Improvement] = []
        self.modules = {"policy": policy}
        self.optimise("policy", policy.parameters(), learning_rate=learning_rate, max_norm=max_gradient_norm)
        if value is not None:
            if discount == 1:
                raise ValueError("need discount < 1 with a value after the horizon, got 1: it would count without end")
            self.modules |= {"value": value, "slow value": copy.deepcopy(value).requires_grad_(False)}
            self.optimise("value", value.parameters(), learning_rate=learning_rate, max_norm=max_gradient_norm)

    @property
    def num_steps_after_fit(self) -> int:
        """See `Learner.num_steps_after_fit`."""
        return self._num_gradient_steps

    def agent(self, *, explore: bool) -> Agent:
        """See `Learner.agent`."""
        return PolicyAgent(self.policy, explore)

    def after_fit(
        self, world: World, transitions: Transitions, *, generator: torch.Generator, advance: Callable[[], None]
    ) -> None:
        """Step 3: follow the gradient of the imagined return."""
        self._take_units(transitions)
        randomness: Randomness | None = None
        first_rate, last_rate = self._learning_rates
        # Not the spread of the states: an angle that is not wrapped is spread over as many turns as were made.
        unit = (transitions.next_state - transitions.state).std(0, correction=0)
        for step in range(self._num_gradient_steps):
            self.set_learning_rate("policy", first_rate + (last_rate - first_rate) * step / self._num_gradient_steps)
            if self._fresh or randomness is None:
                starts = draw_starts(transitions, self._starts, world.num_theta, self._num_starts, generator=generator)
                randomness = world.draw(self.horizon, starts, len(self.policy.centre), generator=generator)
            self._told.append(self.improve(world, starts, randomness, unit=unit))
            advance()
        self._notes += divergence_notes(_share_sound(self._told[-self._num_gradient_steps :]))

    def report(self) -> Mapping[str, Any]:
        """Of the gradient steps after the last fit."""
        if not self._told:
            return {}
        last = self._told[-1]
        return {
            "imagined_return": float(last.imagined_return),
            "gradient_norm": float(torch.stack([one.gradient_norm for one in self._told]).mean()),
            "action_gradient_norms": last.action_gradient_norms.tolist(),
            "share_sound": _share_sound(self._told),
            **({} if last.value_loss is None else {"value_loss": float(last.value_loss)}),
        }

    def warnings(self) -> list[str]:
        """See `Learner.warnings`."""
        return self.take_notes()

    def improve(
        self, world: World, starts: Tensor, randomness: Randomness, *, unit: Tensor | None = None
    ) -> Improvement:
        """One gradient step from the starts [K, B, S], and one of the value that stands for what comes after them.

        `unit` [S] of the states is what the bound on the derivative by a state counts in; None: 1.
        A trajectory that diverged teaches nothing: where rewards are negative, its end would be a gain.
        Raises ExplodingGradientError at the third step in a row without a finite gradient or without a trajectory that
        did not diverge, UserError where the reward has no slope.
        """
        nudges = torch.zeros_like(randomness.policy_noise, requires_grad=True)
        shape_gradient = self._shape_gradient(unit, math.prod(starts.shape[:2]))
        imagined = imagine_policy(
            world, self.policy, starts, **randomness._asdict(), nudges=nudges, shape_gradient=shape_gradient
        )
        after = self._value("slow value") if "value" in self.modules else None
        sound = imagined.is_sound
        share_sound = sound.to(starts.dtype).mean()
        if not sound.any():
            self.skip("policy", "every imagined trajectory diverged", ADVICE)
            unknown = share_sound.new_tensor(math.nan)
            return Improvement(unknown, unknown, unknown.expand(len(nudges)), share_sound, None)
        returns = returns_of(imagined, discount=self.discount, value=after)
        gain = torch.where(sound, returns, 0).mean()
        if not gain.requires_grad:
            raise UserError(
                "the reward has no slope by which a policy could be improved, as one of 1 for each step has none: take "
                "algorithm.terminal_value=true, or an algorithm that needs no slope, as mbpo"
            )
        norm = self.descend("policy", self._saturation(imagined) - gain)
        assert nudges.grad is not None
        # The mean has divided by the number of particles.
        sensitivity = nudges.grad.square().sum(-1).mean((-2, -1)).sqrt() * math.prod(starts.shape[:2])
        value_loss = None if after is None else self._learn_value(imagined)
        return Improvement(gain.detach() / share_sound, norm, sensitivity, share_sound, value_loss)

    def _shape_gradient(self, unit: Tensor | None, num_particles: int) -> Callable[[Tensor], Tensor] | None:
        """What lets only a share of the derivative by a state go on to what came before, and bounds a particle's."""
        decay, largest = self._gradient_decay, self._max_state_gradient
        if decay == 1 and largest is None:
            return None

        def shaped(gradient: Tensor) -> Tensor:
            if largest is None:
                return decay * gradient
            # The mean has divided by the number of particles.
            norm = num_particles * torch.linalg.vector_norm(gradient if unit is None else gradient * unit, dim=-1)
            share = decay * torch.clamp(largest / norm, max=1).unsqueeze(-1)
            return torch.where(norm.isfinite().unsqueeze(-1), share * gradient, 0)

        return shaped

    def _saturation(self, imagined: Imagined) -> Tensor:
        """What is paid for u in a = tanh(u): [].

        Where tanh is flat, or the reward, there is no other gradient, and a policy that went there would stay.
        """
        if not self._saturation_price:
            return imagined.rewards.new_zeros(())
        states = torch.where(imagined.lived.unsqueeze(-1), imagined.states[:-1].detach(), 0)
        unsquashed, _ = self.policy.unsquashed(states)
        return self._saturation_price * unsquashed.square().sum(-1).mean()

    def _learn_value(self, imagined: Imagined) -> Tensor:
        returns = bootstrapped_returns(imagined, self._value("slow value"), discount=self.discount)
        scale = self.modules["value"].get_buffer("scale")
        loss = mean_squared_error(imagined, self._value("value"), returns) / scale.square()
        self.descend("value", loss)
        self.follow("slow value", "value", self._value_rate)
        return loss.detach()

    def _value(self, name: str) -> Callable[[Tensor], Tensor]:
        module = self.modules[name]
        return lambda states: module(self.policy.inputs(states))

    def _take_units(self, transitions: Transitions) -> None:
        """Once, before anything was learned: what the policy sees is scaled to the data, and so is the value."""
        if self.policy.num_seen:
            return
        self.policy.standardise(transitions.state)
        size = transitions.reward.abs().mean()
        for name in ("value", "slow value"):
            if name in self.modules and size > 0:
                self.modules[name].get_buffer("scale").copy_(size / (1 - self.discount))


def _share_sound(told: Sequence[Improvement]) -> float:
    return float(torch.stack([one.share_sound for one in told]).mean())


@dataclasses.dataclass(frozen=True)
class PolicyBackprop(LearningAlgorithm):
    """Settings of the algorithm."""

    propagations: ClassVar[tuple[str, ...]] = ("ts-infinity", "ts-1", "distribution-sampling", "moment-matching")
    policy: PolicyKind = "tanh-gaussian"
    hidden: tuple[Annotated[int, Gt(0)], ...] = (64, 64)
    """Widths of the policy's hidden layers; of "rbf" the first is the number of its units."""
    horizon: Annotated[int, Gt(0)] = 40
    """H, after which an imagined trajectory is cut short."""
    discount: Annotated[float, Ge(0), Le(1)] = 0.99
    num_gradient_steps: Annotated[int, Gt(0)] = 250
    """After each fit."""
    num_starts: Annotated[int, Gt(0)] = 10
    """B: states that each sample of θ starts from."""
    starts: Starts = "visited"
    """Where imagined trajectories start: in any state of D, where an episode of D began, or by halves either."""
    fresh_randomness: bool = True
    """θ, starts and noise anew for each gradient step; else the same for all that follow one fit."""
    learning_rate: Annotated[float, Gt(0)] = 3e-3
    """Of Adam."""
    final_learning_rate: Annotated[float, Gt(0)] | None = None
    """What it falls to, linearly, in the steps after each fit; None: it stays."""
    max_gradient_norm: Annotated[float, Gt(0)] = 10.0
    """What the norm of the policy's gradient is clipped to."""
    saturation_price: Annotated[float, Ge(0)] = 0.0
    """What is paid, in units of the return, for u² in actions tanh(u): a little leads back from where tanh is flat."""
    gradient_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """The share of the derivative by a state that goes on to the step before; below 1 it has a bias, and less noise."""
    max_state_gradient: Annotated[float, Gt(0)] | None = None
    """What the norm of ∂R / ∂s_t of one trajectory is clipped to on its way back, with s_t in units of the std of what
    it changes by in a step; None: nothing."""
    terminal_value: bool = False
    """Whether a learned V(s_H) stands for what comes after the horizon."""
    refit_every: Annotated[int, Gt(0)] | None = None
    """Environment steps between two fits of the posterior; None: after each episode."""

    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """See `LearningAlgorithm.learner`."""
        check_continuous(task, "a gradient through actions")
        num_inputs = task.state_dim if task.features is None else len(task.features(torch.zeros(task.state_dim)))
        inner = make_policy(self.policy, num_inputs, task.low, task.high, hidden=self.hidden, generator=generator)
        policy = StandardisedPolicy(inner, num_inputs, task.features)
        value = StateValue(num_inputs, hidden=self.hidden, generator=generator)
        return PolicyBackpropLearner(
            policy,
            horizon=self.horizon,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            discount=self.discount,
            max_gradient_norm=self.max_gradient_norm,
            num_gradient_steps=self.num_gradient_steps,
            num_starts=self.num_starts,
            starts=self.starts,
            fresh_randomness=self.fresh_randomness,
            saturation_price=self.saturation_price,
            gradient_decay=self.gradient_decay,
            max_state_gradient=self.max_state_gradient,
            value=value if self.terminal_value else None,
        )
