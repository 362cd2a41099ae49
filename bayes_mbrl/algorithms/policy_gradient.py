"""Policy gradient on imagined trajectories: version 2.5 of the lecture, whose steps are:

1. run the base policy to collect D                                         learning.py
2. learn the dynamics, here the posterior p(θ | D)                          learning.py
3. simulate trajectories with f by π, long ones from the start states       `PolicyGradientLearner.sample`
4. improve π by them, by policy gradient, and go on from 3                  `PolicyGradientLearner.improve`
5. run π, appending the visited tuples to D, and go on from 2               learning.py

    ∇J = E[Σ_t ∇ log π(a_t | s_t) A_t],    A_t = Σ_{t' >= t} γ^(t' − t) r_t' − V(s_t)

The likelihood ratio needs no derivative of the model. V is a learned baseline, the advantages are normalised, and PPO's
clipped surrogate, if wanted, allows several steps on the same trajectories. Steps 3 and 4 end when held-out models say
that π no longer improves in most of them (model_validation.py); what is kept is π as it was when they last said it did.

Source: lecture; Williams (1992); Schulman et al., PPO (2017), eq. 7; Kurutach et al., Model-Ensemble TRPO (2018).
Axes: H steps, K parameter samples, B starts of each, S state, A action, N steps of all trajectories.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.algorithms.learner import Learner, LearningAlgorithm, Task, check_continuous
from bayes_mbrl.algorithms.model_validation import ModelValidation, held_out_models
from bayes_mbrl.algorithms.policy_agent import PolicyAgent
from bayes_mbrl.algorithms.trajectories import ADVICE, Starts, divergence_notes, draw_starts
from bayes_mbrl.data import Transitions
from bayes_mbrl.imagination import Imagined, World, imagine_policy
from bayes_mbrl.inference.base import Theta, check_settings, seeded_global_state
from bayes_mbrl.policies import StandardisedPolicy, fully_connected, make_policy


@dataclasses.dataclass(frozen=True)
class Samples:
    """What one gradient step needs of lived steps, as rows [N]."""

    states: Tensor
    """[N, S]"""
    unsquashed: Tensor
    """[N, A]: u, where the action is a squashed u; π of a given action depends on the policy through u alone"""
    log_density: Tensor
    """[N] log N(u | mean, std²) under the policy that acted"""
    advantages: Tensor
    """[N]"""
    to_go: Tensor
    """[N]: Σ_{t' >= t} γ^(t' − t) r_t'"""
    share_sound: float
    """Of the imagined trajectories those that did not diverge; the steps of the others are left out"""


class Round(NamedTuple):
    """What is told of one."""

    gradient_norm: float
    """Of the policy's gradient, the mean over epochs, before it was clipped; NaN where there was none"""
    share_sound: float
    """See `Samples`"""


class PolicyGradientLearner(GradientLearner, Learner):
    """A squashed normal policy and its baseline."""

    @check_settings
    def __init__(
        self,
        state_dim: int,
        low: Tensor,
        high: Tensor,
        *,
        generator: torch.Generator,
        features: Callable[[Tensor], Tensor] | None = None,
        hidden: Sequence[int] = (64, 64),
        learning_rate: Annotated[float, Gt(0)] = 3e-3,
        baseline_learning_rate: Annotated[float, Gt(0)] = 3e-3,
        discount: Annotated[float, Ge(0), Le(1)] = 0.95,
        clip: Annotated[float, Gt(0)] | None = 0.2,
        num_epochs: Annotated[int, Gt(0)] = 10,
        normalise: bool = True,
        max_gradient_norm: Annotated[float, Gt(0)] = 10.0,
        horizon: Annotated[int, Gt(0)] = 100,
        num_starts: Annotated[int, Gt(0)] = 10,
        starts: Starts = "both",
        num_rounds: Annotated[int, Gt(0)] = 30,
        num_held_out: Annotated[int, Gt(0)] = 10,
        validate_every: Annotated[int, Gt(0)] = 5,
        min_share_improved: Annotated[float, Ge(0), Le(1)] = 0.7,
        patience: Annotated[int, Gt(0)] = 2,
    ) -> None:
        """low and high [A] bound the actions. `clip` is ε of PPO; None is the plain gradient, which is right for one
        epoch only, so that more are refused. `normalise` gives the advantages mean 0 and variance 1. The rest is about
        `after_fit`: see `PolicyGradient`.

        Raises ValueError for settings out of range.
        """
        super().__init__()
        if clip is None and num_epochs > 1:
            raise ValueError(f"need num_epochs = 1 without clip, got {num_epochs}: the trajectories are used up")
        num_inputs = state_dim if features is None else len(features(torch.zeros(state_dim)))
        inner = make_policy("tanh-gaussian", num_inputs, low, high, hidden=hidden, generator=generator)
        self.policy = StandardisedPolicy(inner, num_inputs, features)
        with seeded_global_state(generator):  # torch.nn draws initial weights from the global state
            self.baseline = fully_connected([num_inputs, *hidden, 1])
        self.discount, self.clip, self.num_epochs, self.normalise = discount, clip, num_epochs, normalise
        self.horizon, self._num_rounds, self._num_starts = horizon, num_rounds, num_starts
        self._where, self._num_held_out = starts, num_held_out
        self._validate_every, self._min_share, self._patience = validate_every, min_share_improved, patience
        self._told: dict[str, Any] = {}
        self.modules = {"policy": self.policy, "baseline": self.baseline}
        self.optimise("policy", self.policy.parameters(), learning_rate=learning_rate, max_norm=max_gradient_norm)
        self.optimise("baseline", self.baseline.parameters(), learning_rate=baseline_learning_rate)

    @property
    def num_steps_after_fit(self) -> int:
        """See `Learner.num_steps_after_fit`."""
        return self._num_rounds

    def agent(self, *, explore: bool) -> Agent:
        """See `Learner.agent`."""
        return PolicyAgent(self.policy, explore)

    def report(self) -> Mapping[str, Any]:
        """Of the rounds after the last fit; the return is that of the kept policy in held-out models."""
        return self._told

    def warnings(self) -> list[str]:
        """See `Learner.warnings`."""
        return self.take_notes()

    def after_fit(
        self, world: World, transitions: Transitions, *, generator: torch.Generator, advance: Callable[[], None]
    ) -> None:
        """Steps 3 and 4, until held-out models say that the policy no longer improves in most of them."""
        if not self.policy.num_seen:
            self.policy.standardise(transitions.state)
        posterior, held_out = held_out_models(world.posterior, self._num_held_out, generator=generator)
        world = dataclasses.replace(world, posterior=posterior)
        num_held_out = len(next(iter(held_out.values()), ())) or self._num_held_out  # a known world has no parameters
        validation = ModelValidation.begin(
            world,
            held_out,
            self.policy,
            self._draw_starts(transitions, num_held_out, generator),
            horizon=self.horizon,
            min_share=self._min_share,
            generator=generator,
        )
        kept, num_failed, rounds = self.tensors(), 0, []
        for number in range(1, self._num_rounds + 1):
            starts = self._draw_starts(transitions, world.num_theta, generator)
            theta = posterior.sample(world.num_theta, generator=generator)
            rounds.append(self.improve(world, starts, theta, horizon=self.horizon, generator=generator))
            advance()
            if number % self._validate_every and number < self._num_rounds:
                continue
            share, passed = validation.check(self.policy)
            kept, num_failed = (self.tensors(), 0) if passed else (kept, num_failed + 1)
            if num_failed >= self._patience:
                break
        if num_failed:
            self.load(kept)
        self._told = {
            "imagined_return": float(validation.returns.mean()),
            "num_rounds": number,
            "share_improved": share,
            "gradient_norm": sum(one.gradient_norm for one in rounds) / number,
            "share_sound": (share_sound := sum(one.share_sound for one in rounds) / number),
        }
        self._notes += divergence_notes(share_sound)

    def _draw_starts(self, transitions: Transitions, num_theta: int, generator: torch.Generator) -> Tensor:
        return draw_starts(transitions, self._where, num_theta, self._num_starts, generator=generator)

    def improve(self, world: World, starts: Tensor, theta: Theta, *, horizon: int, generator: torch.Generator) -> Round:
        """One round: imagine H steps from starts [K, B, S], then `num_epochs` steps of policy and baseline.

        Raises ExplodingGradientError at the third gradient in a row that is not finite, and at the third round in a row
        whose trajectories all diverged: there is nothing to learn from.
        """
        samples = self.sample(world, starts, theta, horizon=horizon, generator=generator)
        if samples.share_sound == 0:
            self.skip("policy", "every imagined trajectory diverged", ADVICE)
            return Round(math.nan, 0.0)
        norms = []
        for _ in range(self.num_epochs):
            norms.append(self.descend("policy", -self.surrogate(samples)))
            values = self._values(samples.states)
            # Returns may be of any size: the loss is measured in their own variance.
            scale = samples.to_go.var(correction=0).clamp(min=1e-8)
            self.descend("baseline", functional.mse_loss(values, samples.to_go) / scale)
        return Round(float(torch.stack(norms).mean()), samples.share_sound)

    @torch.no_grad()
    def sample(
        self, world: World, starts: Tensor, theta: Theta, *, horizon: int, generator: torch.Generator
    ) -> Samples:
        """Lived steps of imagined trajectories, with their advantages.

        A trajectory that diverged is left out as a whole: where rewards are negative, its end would be a gain.
        """
        randomness = world.draw(horizon, starts, len(self.policy.centre), generator=generator)._replace(theta=theta)
        imagined = imagine_policy(world, self.policy, starts, **randomness._asdict())
        lived, states = imagined.lived & imagined.is_sound, imagined.states[:-1]
        mean, log_std = self._normal(states)
        unsquashed = torch.addcmul(mean, log_std.exp(), randomness.policy_noise)
        to_go = rewards_to_go(imagined, self.discount)
        advantages = (to_go - self._values(states))[lived]
        if self.normalise and len(advantages):
            advantages = (advantages - advantages.mean()) / advantages.std(correction=0).clamp(min=1e-8)
        return Samples(
            states[lived],
            unsquashed[lived],
            _log_normal(unsquashed, mean, log_std)[lived],
            advantages,
            to_go[lived],
            float(imagined.is_sound.double().mean()),
        )

    def surrogate(self, samples: Samples) -> Tensor:
        """What the policy ascends []: its gradient at the policy that acted is the policy gradient a step."""
        mean, log_std = self._normal(samples.states)
        ratio = (_log_normal(samples.unsquashed, mean, log_std) - samples.log_density).exp()
        plain = ratio * samples.advantages
        if self.clip is None:
            return plain.mean()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip) * samples.advantages
        return torch.minimum(plain, clipped).mean()

    def _normal(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of u: two [..., A]."""
        mean, log_std = self.policy.unsquashed(states)
        assert log_std is not None, "a squashed normal has noise"
        return mean, log_std

    def _values(self, states: Tensor) -> Tensor:
        """V(s) [...]."""
        values: Tensor = self.baseline(self.policy.inputs(states)).squeeze(-1)
        return values


def rewards_to_go(imagined: Imagined, discount: float) -> Tensor:
    """Σ_{t' >= t} γ^(t' − t) r_t' [H, K, B]; steps that were not lived have reward 0."""
    total = torch.zeros_like(imagined.rewards[0])
    totals = []
    for reward in reversed(imagined.rewards.unbind(0)):
        total = reward + discount * total
        totals.append(total)
    return torch.stack(totals[::-1])


def _log_normal(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(u | mean, std²) summed over actions: [..., A] → [...], in nats."""
    standard = (u - mean) / log_std.exp()
    return (-0.5 * standard.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


@dataclasses.dataclass(frozen=True)
class PolicyGradient(LearningAlgorithm):
    """Settings of the algorithm."""

    propagations: ClassVar[tuple[str, ...]] = ("ts-infinity", "ts-1")
    hidden: tuple[Annotated[int, Gt(0)], ...] = (64, 64)
    """Widths of the hidden layers of policy and baseline."""
    horizon: Annotated[int, Gt(0)] = 100
    """H, after which an imagined trajectory is cut short."""
    discount: Annotated[float, Ge(0), Le(1)] = 0.95
    """γ: the lower, the less of the noise of far rewards is in the estimate."""
    num_rounds: Annotated[int, Gt(0)] = 30
    """After each fit, at most; a round is new trajectories and `num_epochs` steps on them."""
    num_starts: Annotated[int, Gt(0)] = 10
    """B: trajectories of each sample of θ."""
    starts: Starts = "both"
    """Where imagined trajectories start: in any state of D, where an episode of D began, or by halves either."""
    clip: Annotated[float, Gt(0)] | None = 0.2
    """ε of PPO; null: the plain gradient, for num_epochs=1."""
    num_epochs: Annotated[int, Gt(0)] = 10
    """Gradient steps on the same trajectories."""
    learning_rate: Annotated[float, Gt(0)] = 3e-3
    baseline_learning_rate: Annotated[float, Gt(0)] = 3e-3
    max_gradient_norm: Annotated[float, Gt(0)] = 10.0
    """What the policy's gradient is clipped to."""
    num_held_out: Annotated[int, Gt(0)] = 10
    """Samples of θ that are asked whether the policy improves; of stored draws at most half."""
    validate_every: Annotated[int, Gt(0)] = 5
    """Rounds between two checks."""
    min_share_improved: Annotated[float, Ge(0), Le(1)] = 0.7
    """Of the held-out models, in how many the policy has to be better than at the last check that passed."""
    patience: Annotated[int, Gt(0)] = 2
    """How many checks in a row have to fail before it stops; the policy of the last one that passed is kept."""
    refit_every: Annotated[int, Gt(0)] | None = None
    """Environment steps between two fits of the posterior; None: after each episode."""

    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """See `LearningAlgorithm.learner`."""
        check_continuous(task, "a policy gradient with a squashed normal")
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del settings["refit_every"]
        return PolicyGradientLearner(
            task.state_dim, task.low, task.high, generator=generator, features=task.features, **settings
        )
