"""Planners for choices: laws, and problems whose best plan is known by enumeration."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.planners import discrete
from bayes_mbrl.planners.base import Planner, search
from bayes_mbrl.planners.discrete import CategoricalCEM, DiscreteShooting, ExhaustiveSearch, one_hot

CHOICES = (3, 2)
HORIZON = 4

DISCRETE: dict[str, Callable[[int], Planner[Any]]] = {
    "cem": lambda horizon: CategoricalCEM(CHOICES, horizon, num_candidates=80, num_elites=8, num_iterations=8),
    "random_shooting": lambda horizon: DiscreteShooting(CHOICES, horizon, num_candidates=80, num_iterations=3),
    "exhaustive": lambda horizon: ExhaustiveSearch(CHOICES, horizon),
}
every_planner = pytest.mark.parametrize("factory", DISCRETE.values(), ids=DISCRETE.keys())

BEST = one_hot(torch.tensor([[2, 0], [0, 1], [1, 1], [2, 1]]), CHOICES)


def score(plans: Tensor) -> Tensor:
    """Steps that agree with BEST, and a bonus for agreement of the first and last step together; negative."""
    right = (plans * BEST).sum(-1)
    return right.sum(-1) + 3.0 * (right[:, 0] == 2) * (right[:, -1] == 2) - 100


def assert_one_hot(plans: Tensor) -> None:
    assert ((plans == 0) | (plans == 1)).all()
    for block in plans.split(list(CHOICES), dim=-1):
        assert (block.sum(-1) == 1).all()


def test_every_planner_for_choices_is_in_the_table() -> None:
    found = {
        value
        for value in vars(discrete).values()
        if inspect.isclass(value) and issubclass(value, Planner) and value is not Planner
    }
    assert found == {type(factory(HORIZON)) for factory in DISCRETE.values()}


@every_planner
def test_plans_are_choices_through_a_whole_episode(
    factory: Callable[[int], Planner[Any]], generator: torch.Generator
) -> None:
    planner = factory(HORIZON)
    state = planner.init()
    assert_one_hot(state.plan)
    for _ in range(3):
        for _ in range(planner.num_iterations):
            plans = planner.ask(state, generator=generator)
            assert plans.shape == (len(plans), HORIZON, 5)
            assert_one_hot(plans)
            state = planner.tell(state, plans, score(plans))
        assert_one_hot(state.plan)
        shifted = planner.shift(state)
        assert torch.equal(shifted.plan[:-1], state.plan[1:])
        assert_one_hot(shifted.plan)
        state = shifted


@every_planner
def test_the_best_plan_is_found(factory: Callable[[int], Planner[Any]], generator: torch.Generator) -> None:
    planner = factory(HORIZON)
    if isinstance(planner, DiscreteShooting):
        planner = dataclasses.replace(planner, num_candidates=20_000)
    state = search(planner, planner.init(), score, generator=generator)
    assert torch.equal(state.plan, BEST)


def test_all_plans_are_enumerated_once() -> None:
    plans = ExhaustiveSearch(CHOICES, 3).ask(ExhaustiveSearch(CHOICES, 3).init(), generator=torch.Generator())
    assert len(plans) == 6**3
    assert len(plans.unique(dim=0)) == 6**3
    expected = [one_hot(torch.tensor(actions), CHOICES) for actions in itertools.product([(2, 1)], repeat=3)]
    assert torch.equal(plans[-1], expected[0])
    single = ExhaustiveSearch((4,), 1)
    assert torch.equal(single.ask(single.init(), generator=torch.Generator())[:, 0], torch.eye(4))


def test_too_many_plans_are_refused_with_the_longest_horizon_possible() -> None:
    with pytest.raises(ValueError, match="6 actions and horizon 30 has more than 131072 plans: take horizon <= 6"):
        ExhaustiveSearch(CHOICES, 30)
    assert ExhaustiveSearch((1, 1), 40).horizon == 40


def test_cem_finds_more_often_than_random_shooting_at_equal_evaluations() -> None:
    """One plan out of 6^10, whose steps count one by one."""
    best = one_hot(torch.tensor([[i % 3, i % 2] for i in range(10)]), CHOICES)

    def agreement(plans: Tensor) -> Tensor:
        return (plans * best).sum((1, 2))

    results = {}
    for name, planner in {
        "cem": CategoricalCEM(CHOICES, 10, num_candidates=100, num_elites=10, num_iterations=10),
        "random": DiscreteShooting(CHOICES, 10, num_candidates=1000),
    }.items():
        found = [
            torch.equal(
                search(planner, planner.init(), agreement, generator=torch.Generator().manual_seed(s)).plan, best
            )  # type: ignore[type-var]
            for s in range(10)
        ]
        results[name] = sum(found)
    assert results["random"] == 0
    assert results["cem"] >= 8


def test_elites_move_the_probabilities_by_hand() -> None:
    """Elites are candidates 1 and 3; momentum 0.25, a floor of 0.1."""
    planner = CategoricalCEM((2,), 2, num_candidates=4, num_elites=2, momentum=0.25, min_probability=0.1)
    plans = one_hot(torch.tensor([[0, 0], [1, 0], [0, 0], [1, 1]])[..., None], (2,))
    told = planner.tell(planner.init(), plans, torch.tensor([-5.0, 2.0, -3.0, 7.0]))
    mixed = torch.tensor([[0.125, 0.875], [0.5, 0.5]])
    assert torch.allclose(told.probabilities, 0.9 * mixed + 0.1 * 0.5)
    assert torch.equal(told.plan, plans[3])


def test_a_warm_start_is_one_step_later_and_half_way_back_to_uniform() -> None:
    planner = CategoricalCEM(CHOICES, 2, num_candidates=9, num_elites=5)
    plan = one_hot(torch.tensor([[0, 1], [2, 1]]), CHOICES)
    probabilities = torch.tensor([[0.7, 0.2, 0.1, 0.35, 0.65], [0.0, 0.1, 0.9, 1.0, 0.0]])
    shifted = planner.shift(dataclasses.replace(planner.init(), probabilities=probabilities, plan=plan))
    third = 1 / 3
    expected = [[third / 2, (0.1 + third) / 2, (0.9 + third) / 2, 0.75, 0.25], [third, third, third, 0.5, 0.5]]
    torch.testing.assert_close(shifted.probabilities, torch.tensor(expected))
    assert torch.equal(shifted.plan, one_hot(torch.tensor([[2, 1], [0, 0]]), CHOICES))


def test_draws_follow_the_probabilities(generator: torch.Generator) -> None:
    planner = CategoricalCEM(CHOICES, 2, num_candidates=40_001, num_elites=5)
    probabilities = torch.tensor([[0.7, 0.2, 0.1, 0.35, 0.65], [0.05, 0.05, 0.9, 1.0, 0.0]])
    start = dataclasses.replace(planner.init(), probabilities=probabilities)
    drawn = planner.ask(start, generator=generator)[1:]
    assert (
        (drawn.mean(0) - probabilities).abs() < 5 * (probabilities * (1 - probabilities) / 40_000).sqrt() + 1e-7
    ).all()


@every_planner
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_raise_with_their_count(
    factory: Callable[[int], Planner[Any]], broken: float, generator: torch.Generator
) -> None:
    planner = factory(HORIZON)
    state = search(planner, planner.init(), score, generator=generator)
    before = {field.name: getattr(state, field.name).clone() for field in dataclasses.fields(state)}
    plans = planner.ask(state, generator=generator)
    scores = score(plans)
    scores[[0, 5]] = broken
    with pytest.raises(ValueError, match=f"2 of {len(plans)} scores are NaN or inf"):
        planner.tell(state, plans, scores)
    for name, value in before.items():
        assert torch.equal(getattr(state, name), value)


BUILDERS: dict[str, Callable[..., Planner[Any]]] = {
    "cem": CategoricalCEM,
    "icem": functools.partial(CategoricalCEM, colour=1.0),
    "random_shooting": DiscreteShooting,
    "exhaustive": ExhaustiveSearch,
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
@pytest.mark.parametrize(
    ("choices", "horizon", "problem"),
    [
        ((), 3, r"need at least one number of choices, each >= 1, got \[\]"),
        ((0,), 3, r"each >= 1, got \[0\]"),
        ((2, 0, 3), 3, r"each >= 1, got \[2, 0, 3\]"),
        ((3, -1), 3, r"each >= 1, got \[3, -1\]"),
        ((0,), 0, r"each >= 1, got \[0\]; need horizon >= 1, got 0"),
    ],
)
def test_nothing_to_choose_from_is_refused_by_every_planner(
    build: Callable[..., Planner[Any]], choices: tuple[int, ...], horizon: int, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        build(choices, horizon)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
def test_where_there_is_one_choice_it_is_taken(build: Callable[..., Planner[Any]], generator: torch.Generator) -> None:
    planner = build((1, 1), 3)
    state = search(planner, planner.init(), lambda p: 0 * p.sum((1, 2)), generator=generator)
    assert torch.equal(state.plan, torch.ones(3, 2))
    assert torch.equal(planner.shift(state).plan, torch.ones(3, 2))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
@pytest.mark.parametrize(("choices", "horizon"), [((2,), 6), ((3, 2), 3), ((4, 1, 2), 2), ((7,), 1)])
def test_every_planner_equals_brute_force_on_small_problems(
    build: Callable[..., Planner[Any]], choices: tuple[int, ...], horizon: int
) -> None:
    """A random score for each pair of neighbouring actions, all plans in a loop of Python; at the default budget."""
    actions = list(itertools.product(*(range(n) for n in choices)))
    codes = one_hot(torch.tensor(actions), choices)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(len(actions), generator=generator, dtype=torch.float64)
        pairs = torch.randn(len(actions), len(actions), generator=generator, dtype=torch.float64)

        def table(plans: Tensor, first: Tensor = first, pairs: Tensor = pairs) -> Tensor:
            which = (plans[:, :, None] == codes).all(-1).to(torch.long).argmax(-1)
            return first[which[:, 0]] + pairs[which[:, :-1], which[:, 1:]].sum(1) - 50

        worth = {
            plan: float(first[plan[0]]) + sum(float(pairs[a, b]) for a, b in itertools.pairwise(plan))
            for plan in itertools.product(range(len(actions)), repeat=horizon)
        }
        best = max(worth, key=lambda plan: worth[plan])
        planner = build(choices, horizon)
        state = search(planner, planner.init(), table, generator=generator)
        assert torch.equal(state.plan, codes[list(best)])


def test_the_better_of_two_basins_is_found_more_often_than_by_chance_at_equal_evaluations() -> None:
    """Near one plan of 8 steps the score rises by its agreement, near another one that is worth more too, but sooner
    lost."""
    wide = one_hot(torch.tensor([[i % 3, 0] for i in range(8)]), CHOICES)
    better = one_hot(torch.tensor([[(i + 1) % 3, 1] for i in range(8)]), CHOICES)

    def basins(plans: Tensor) -> Tensor:
        agreement = [(plans * centre).sum((1, 2)) / 16 for centre in (wide, better)]
        return torch.maximum(agreement[0], 1.5 - 2 * (1 - agreement[1]))

    found = {}
    for name, planner in {
        "cem": CategoricalCEM(CHOICES, 8, num_candidates=100, num_elites=10, num_iterations=8),
        "chance": DiscreteShooting(CHOICES, 8, num_candidates=800),
    }.items():
        plans = [
            search(planner, planner.init(), basins, generator=torch.Generator().manual_seed(s)).plan  # type: ignore[type-var]
            for s in range(20)
        ]
        found[name] = sum(torch.equal(plan, better) for plan in plans)
    assert found["cem"] >= found["chance"] + 8


@every_planner
def test_equal_generators_give_equal_plans_and_the_state_is_not_changed(factory: Callable[[int], Planner[Any]]) -> None:
    planner = factory(HORIZON)
    first, second = (
        search(planner, planner.init(), score, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.plan, second.plan)
    before = first.plan.clone()
    plans = planner.ask(first, generator=torch.Generator().manual_seed(4))
    told = planner.tell(first, plans, score(plans))
    after = told.plan.clone()
    plans.zero_()
    planner.shift(first)
    assert torch.equal(first.plan, before)
    assert torch.equal(told.plan, after)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: CategoricalCEM((), 3), r"need at least one number of choices, each >= 1, got \[\]"),
        (lambda: DiscreteShooting((3, 0), 3), r"each >= 1, got \[3, 0\]"),
        (lambda: ExhaustiveSearch((3,), 0), "need horizon >= 1, got 0"),
        (lambda: CategoricalCEM((3,), num_elites=9, num_candidates=8), "need 1 <= num_elites <= num_candidates"),
        (lambda: CategoricalCEM((3,), momentum=1.0, min_probability=2.0), "momentum < 1, got 1.0; need 0 <= min_prob"),
        (lambda: DiscreteShooting((3,), num_candidates=1), "need num_candidates >= 2"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build()
