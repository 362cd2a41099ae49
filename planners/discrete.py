"""Planners for actions that are choices: the cross-entropy method on categories, random shooting, exhaustive search.

An action is one choice out of n_1, one out of n_2, and so on; in plans [C, H, A] it is written as one-hot vectors side
by side, A = n_1 + n_2 + ...: what a model takes as input, within the bounds 0 and 1 like any other action.
Source of the categorical form: Rubinstein, The cross-entropy method for combinatorial and continuous optimization
(1999).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bayes_mbrl.planners.base import Planner, check_told, require
from bayes_mbrl.planners.coloured_noise import coloured_noise

MAX_PLANS = 2**17
"""Of an exhaustive search: all of them are in memory at once."""


@dataclass(frozen=True, eq=False)
class CategoricalState:
    """The distribution over plans, independent from step to step, and the plan so far."""

    probabilities: Tensor
    """[H, A]: in each step, those of the n_1 choices, then those of the n_2, ..."""
    plan: Tensor
    """[H, A], one-hot: the best of the last iteration."""


@dataclass(frozen=True, eq=False)
class CategoricalCEM(Planner[CategoricalState]):
    """Probabilities of the choices ← their shares among the `num_elites` best plans, mixed with the old by `momentum`.

    `colour` is that of iCEM: 0 draws the steps independently, more makes choices last, as tasks need in which one has
    to push the same way for long; each step alone keeps its probabilities. No probability falls below
    `min_probability` / n, so that no choice is given up for good. The plan so far competes in every iteration. The warm
    start is the plan shifted by one step, the probabilities half way back to uniform.
    Raises ValueError on impossible settings, all of them at once.
    """

    choices: Sequence[int]
    horizon: int = 25
    num_candidates: int = 1000
    num_elites: int = 50
    num_iterations: int = 30
    momentum: float = 0.1
    min_probability: float = 0.01
    colour: float = 0.0
    low: Tensor = field(init=False)
    high: Tensor = field(init=False)

    def __post_init__(self) -> None:
        require(
            *_choice_checks(self.choices, self.horizon),
            (
                1 <= self.num_elites <= self.num_candidates,
                f"need 1 <= num_elites <= num_candidates, got {self.num_elites} and {self.num_candidates}",
            ),
            (self.num_candidates >= 2, f"need num_candidates >= 2 (one is the plan so far), got {self.num_candidates}"),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
            (0 <= self.momentum < 1, f"need 0 <= momentum < 1, got {self.momentum}"),
            (0 <= self.min_probability <= 1, f"need 0 <= min_probability <= 1, got {self.min_probability}"),
            (0 <= self.colour < math.inf, f"need colour finite and >= 0, got {self.colour}"),
        )
        _set_bounds(self, self.choices)

    def init(self) -> CategoricalState:
        """Uniform; the plan is every first choice."""
        uniform = _uniform(self.choices).expand(self.horizon, -1).clone()
        return CategoricalState(uniform, _first_choices(self.choices, self.horizon))

    def ask(self, state: CategoricalState, *, generator: torch.Generator) -> Tensor:
        """The plan so far, then draws: [C, H, A]."""
        drawn = _draw(state.probabilities, self.choices, self.num_candidates - 1, generator, self.colour)
        return torch.cat([state.plan[None], drawn])

    def tell(self, state: CategoricalState, plans: Tensor, scores: Tensor) -> CategoricalState:
        """Move the probabilities towards the elites' shares."""
        check_told(plans, scores, self.horizon, len(self.low))
        require(
            (len(plans) >= self.num_elites, f"need at least num_elites = {self.num_elites} plans, got {len(plans)}")
        )
        elites = plans[scores.topk(self.num_elites).indices]
        shares = torch.lerp(elites.mean(dim=0), state.probabilities, self.momentum)
        probabilities = torch.lerp(shares, _uniform(self.choices), self.min_probability)
        return CategoricalState(probabilities, elites[0].clone())

    def shift(self, state: CategoricalState) -> CategoricalState:
        """Plan and probabilities one step later; the first choice and uniform ones at the end."""
        uniform = _uniform(self.choices)
        later = torch.cat([state.probabilities[1:], uniform[None]])
        return CategoricalState(torch.lerp(later, uniform, 0.5), _shift(state.plan, self.choices))


@dataclass(frozen=True, eq=False)
class DiscretePlan:
    """The plan so far."""

    plan: Tensor
    """[H, A], one-hot."""


@dataclass(frozen=True, eq=False)
class DiscreteShooting(Planner[DiscretePlan]):
    """argmax over the plan so far and `num_candidates` − 1 uniformly random plans.

    Raises ValueError on impossible settings, all of them at once.
    """

    choices: Sequence[int]
    horizon: int = 25
    num_candidates: int = 1000
    num_iterations: int = 1
    low: Tensor = field(init=False)
    high: Tensor = field(init=False)

    def __post_init__(self) -> None:
        require(
            *_choice_checks(self.choices, self.horizon),
            (self.num_candidates >= 2, f"need num_candidates >= 2 (one is the plan so far), got {self.num_candidates}"),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
        )
        _set_bounds(self, self.choices)

    def init(self) -> DiscretePlan:
        """Every first choice."""
        return DiscretePlan(_first_choices(self.choices, self.horizon))

    def ask(self, state: DiscretePlan, *, generator: torch.Generator) -> Tensor:
        """The plan so far, then uniform plans: [C, H, A]."""
        uniform = _uniform(self.choices).expand(self.horizon, -1)
        return torch.cat([state.plan[None], _draw(uniform, self.choices, self.num_candidates - 1, generator)])

    def tell(self, state: DiscretePlan, plans: Tensor, scores: Tensor) -> DiscretePlan:
        """The best of the plans."""
        check_told(plans, scores, self.horizon, len(self.low))
        return DiscretePlan(plans.index_select(0, scores.argmax(dim=0, keepdim=True))[0].clone())

    def shift(self, state: DiscretePlan) -> DiscretePlan:
        """The plan one step later, the first choice at its end."""
        return DiscretePlan(_shift(state.plan, self.choices))


@dataclass(frozen=True, eq=False)
class ExhaustiveSearch(Planner[DiscretePlan]):
    """argmax over all plans there are, (n_1 n_2 ...)^horizon of them; of equal ones the first.

    Raises ValueError on impossible settings and where there are more than `MAX_PLANS`.
    """

    choices: Sequence[int]
    horizon: int = 5
    low: Tensor = field(init=False)
    high: Tensor = field(init=False)
    num_iterations: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(*_choice_checks(self.choices, self.horizon))
        num_actions = math.prod(self.choices)
        longest = 0
        while num_actions ** (longest + 1) <= MAX_PLANS and longest < self.horizon:
            longest += 1
        require(
            (
                longest == self.horizon,
                f"an exhaustive search over {num_actions} actions and horizon {self.horizon} has more than {MAX_PLANS} "
                f"plans: take horizon <= {longest}, or planner cem",
            )
        )
        _set_bounds(self, self.choices)

    def init(self) -> DiscretePlan:
        """Every first choice."""
        return DiscretePlan(_first_choices(self.choices, self.horizon))

    def ask(self, state: DiscretePlan, *, generator: torch.Generator) -> Tensor:
        """All plans [C, H, A], always in the same order; nothing is random."""
        actions = torch.tensor(list(itertools.product(*(range(n) for n in self.choices))))
        plans = torch.cartesian_prod(*[torch.arange(len(actions))] * self.horizon).view(-1, self.horizon)
        return one_hot(actions, self.choices)[plans]

    def tell(self, state: DiscretePlan, plans: Tensor, scores: Tensor) -> DiscretePlan:
        """The best of the plans."""
        check_told(plans, scores, self.horizon, len(self.low))
        return DiscretePlan(plans.index_select(0, scores.argmax(dim=0, keepdim=True))[0].clone())

    def shift(self, state: DiscretePlan) -> DiscretePlan:
        """The plan one step later, the first choice at its end."""
        return DiscretePlan(_shift(state.plan, self.choices))


def one_hot(indices: Tensor, choices: Sequence[int]) -> Tensor:
    """indices [..., d] of choices out of n_1, ..., n_d → one-hot vectors side by side [..., n_1 + ... + n_d]."""
    blocks = [torch.nn.functional.one_hot(indices[..., i], n) for i, n in enumerate(choices)]
    return torch.cat(blocks, dim=-1).to(torch.float32)


def _draw(
    probabilities: Tensor, choices: Sequence[int], count: int, generator: torch.Generator, colour: float = 0.0
) -> Tensor:
    """Plans [count, H, A] of choices with these probabilities [H, A], independent unless their noise is coloured."""
    drawn = [
        _coloured(block, count, colour, generator)
        if colour
        else torch.multinomial(block, count, replacement=True, generator=generator).T
        for block in torch.split(probabilities, list(choices), dim=-1)
    ]
    return one_hot(torch.stack(drawn, dim=-1), choices)


def _coloured(probabilities: Tensor, count: int, colour: float, generator: torch.Generator) -> Tensor:
    """Choices [count, H] with the probabilities [H, n], which resemble their neighbours in time.

    Φ(z) of coloured noise z is uniform at each step and tells, on the cumulated probabilities, the choice: a Gaussian
    copula over time.
    """
    noise = coloured_noise(count, len(probabilities), 1, colour, like=probabilities, generator=generator)
    share = torch.special.ndtr(noise)  # [count, H, 1]
    return torch.gt(share, probabilities.cumsum(dim=-1)[:, :-1]).sum(dim=-1)


def _uniform(choices: Sequence[int]) -> Tensor:
    """[A]: 1 / n for each of n choices."""
    return torch.cat([torch.full((n,), 1 / n) for n in choices])


def _first_choices(choices: Sequence[int], horizon: int) -> Tensor:
    return one_hot(torch.zeros(horizon, len(choices), dtype=torch.long), choices)


def _shift(plan: Tensor, choices: Sequence[int]) -> Tensor:
    return torch.cat([plan[1:], _first_choices(choices, 1)])


def _set_bounds(planner: object, choices: Sequence[int]) -> None:
    for name, value in (("low", torch.zeros), ("high", torch.ones)):
        object.__setattr__(planner, name, value(sum(choices)))  # the planner is frozen


def _choice_checks(choices: Sequence[int], horizon: int) -> list[tuple[bool, str]]:
    sound = len(choices) > 0 and all(n >= 1 for n in choices)
    return [
        (sound, f"need at least one number of choices, each >= 1, got {list(choices)}"),
        (horizon >= 1, f"need horizon >= 1, got {horizon}"),
    ]
