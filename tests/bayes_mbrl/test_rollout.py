"""Laws of a rollout: what a score may depend on, what ends a particle's sum, what is allocated."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.finalists import evaluate_finalists
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.objectives import FailureObjective, expected_return, mean_with_failure_limit
from bayes_mbrl.planners.propagation import ts_1
from bayes_mbrl.registry import PROPAGATIONS
from bayes_mbrl.rollout import DIVERGENCE_RETURN, chunk_size, draw_noise, evaluate_plans, imagine

K, M, C, H = 3, 4, 6, 5

every_propagation = pytest.mark.parametrize("propagate", [row.load() for row in PROPAGATIONS.rows.values()])


def plans(num: int = C, horizon: int = H) -> Tensor:
    return torch.randn(num, horizon, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(41))


def sharp_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Uses all it is given, and is linear in nothing."""
    return next_state[..., 0] * state[..., 1].tanh() - action.square().sum(-1) + 0.01 * next_state[..., 2]


def leaves_a_box(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0].abs() > 1.5


@pytest.fixture
def evaluate(network_problem: Any, transitions: Transitions) -> Callable[..., Tensor]:
    """Scores of plans under the network; the same seed in every call, all settings may be changed."""

    def scores(candidates: Tensor, *, seed: int = 0, learns_reward: bool = False, **changes: Any) -> Tensor:
        dynamics, posterior = network_problem(learns_reward=learns_reward)
        settings: dict[str, Any] = {
            "posterior": posterior,
            "dynamics": dynamics,
            "reward": dynamics.reward or sharp_reward,
            "objective": expected_return(),
            "num_theta": K,
            "num_noise": M,
            "generator": torch.Generator().manual_seed(seed),
            **changes,
        }
        start = settings.pop("state", transitions.state[0])
        call = evaluate_finalists if "finalists" in settings else evaluate_plans
        return call(candidates, start, **settings)

    return scores


@every_propagation
def test_gradient_is_that_of_finite_differences(evaluate: Callable[..., Tensor], propagate: Any) -> None:
    candidates = plans(2, 3).requires_grad_()
    torch.autograd.gradcheck(lambda p: evaluate(p, propagation=propagate), candidates)


@every_propagation
@pytest.mark.parametrize("termination", [None, leaves_a_box])
@pytest.mark.parametrize("learns_reward", [False, True])
def test_buffers_change_no_number(
    evaluate: Callable[..., Tensor], propagate: Any, termination: Any, learns_reward: bool
) -> None:
    settings = {"propagation": propagate, "termination": termination, "learns_reward": learns_reward}
    with_gradient = evaluate(plans(), **settings)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(plans(), **settings, max_particles=2 * K * M), with_gradient)


@every_propagation
def test_a_score_does_not_depend_on_neighbours_or_chunks(evaluate: Callable[..., Tensor], propagate: Any) -> None:
    with torch.no_grad():
        together = evaluate(plans(), propagation=propagate, termination=leaves_a_box)
        alone = [evaluate(plan, propagation=propagate, termination=leaves_a_box) for plan in plans().split(1)]
        torch.testing.assert_close(torch.cat(alone), together, rtol=1e-12, atol=1e-12)
        for max_particles in (1, 4 * K * M, 10**9):
            chunked = evaluate(plans(), propagation=propagate, termination=leaves_a_box, max_particles=max_particles)
            torch.testing.assert_close(chunked, together, rtol=1e-12, atol=1e-12)


@every_propagation
def test_equal_plans_get_equal_scores(evaluate: Callable[..., Tensor], propagate: Any) -> None:
    """Common random numbers: the difference between two plans is not noise. To rounding, since sums differ in order."""
    twice = torch.cat([plans(), plans()])
    with torch.no_grad():
        first, second = evaluate(twice, propagation=propagate).chunk(2)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    assert first.sort().values.diff().min() > 1e-3


@every_propagation
def test_the_generator_decides_everything(evaluate: Callable[..., Tensor], propagate: Any) -> None:
    first, again, other = (evaluate(plans(), propagation=propagate, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()


@pytest.mark.parametrize("smallest", ["num_theta", "num_noise", "horizon", "candidates", "all"])
def test_axes_of_length_one(evaluate: Callable[..., Tensor], smallest: str) -> None:
    def size(name: str, usual: int) -> int:
        return 1 if smallest in (name, "all") else usual

    scores = evaluate(
        plans(size("candidates", C), size("horizon", H)), num_theta=size("num_theta", K), num_noise=size("num_noise", M)
    )
    assert scores.shape == (size("candidates", C),)
    assert torch.isfinite(scores).all()


# What ends a particle's sum, on systems of one state whose returns are known by hand


def returns_of(
    candidates: Tensor,
    step: Callable[[Tensor, Tensor], Tensor],
    *,
    noise_std: float = 0.0,
    start: float,
    **settings: Any,
) -> Tensor:
    """Returns [K, M, C] of plans [C, H, 1] on s' = step(s, a) + noise, S = 1."""
    kept = []

    def objective(returns: Tensor) -> Tensor:
        kept.append(returns)
        return returns.mean((0, 1))

    with torch.no_grad():
        evaluate_plans(
            candidates,
            torch.tensor([start], dtype=torch.float64),
            posterior=Nothing(),
            dynamics=KnownDynamics(step, noise_std=torch.tensor([noise_std], dtype=torch.float64)),
            **{
                "objective": objective,
                "num_theta": K,
                "num_noise": M,
                "generator": torch.Generator().manual_seed(0),
                **settings,
            },
        )
    return kept[0] if kept else torch.empty(0)


def constant_plans(*actions: float) -> Tensor:
    return torch.tensor(actions, dtype=torch.float64)[:, None, None].expand(-1, H, 1)


def add_action(state: Tensor, action: Tensor) -> Tensor:
    return state + action


def arrived(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0] >= 6


def where_it_went(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0]


def one_a_step(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state.new_ones(next_state.shape[:-1])


def test_the_terminal_step_is_the_last_that_counts() -> None:
    """From 0, termination at 6: by ones never, by twos at 2 + 4 + 6, by tens at once."""
    returns = returns_of(constant_plans(1, 2, 10), add_action, start=0.0, reward=where_it_went, termination=arrived)
    assert returns.shape == (K, M, 3)
    assert torch.equal(returns[0, 0], torch.tensor([15.0, 12.0, 10.0], dtype=torch.float64))
    assert (returns == returns[0, 0]).all()


def test_under_ts_1_return_and_end_move_with_the_particle() -> None:
    """Each particle followed by hand through the shuffles, among them some that end and some that do not."""
    settings = {"num_theta": 4, "num_noise": 3, "generator": torch.Generator().manual_seed(7)}
    returns = returns_of(
        constant_plans(1.2),
        add_action,
        noise_std=1.0,
        start=0.0,
        reward=where_it_went,
        termination=arrived,
        propagation=ts_1,
        **settings,
    )
    known = KnownDynamics(add_action, noise_std=torch.ones(1, dtype=torch.float64))
    generator = torch.Generator().manual_seed(7)
    noise, mixing = draw_noise(H, 4, 3, known, torch.zeros(1, dtype=torch.float64), generator=generator)
    ended = 0
    for m in range(3):
        for k in range(4):
            place, state, total, alive = k, 0.0, 0.0, True
            for t in range(H):
                state += 1.2 + float(noise[t, place, m, 0, 0])
                total += state if alive else 0.0
                alive = alive and state < 6
                place = mixing[t, :, m, 0, 0].argsort().tolist().index(place)
            assert float(returns[place, m, 0]) == pytest.approx(total)
            ended += not alive
    assert 0 < ended < 12


@pytest.mark.parametrize("propagate", [PROPAGATIONS.rows[name].load() for name in ("ts-infinity", "ts-1")])
def test_overflow_after_the_end_is_no_divergence(propagate: Any) -> None:
    settings = {"start": 1.0, "reward": one_a_step, "propagation": propagate}

    def explode(state: Tensor, action: Tensor) -> Tensor:
        return state * 1e200 * action

    ended = returns_of(constant_plans(1.0), explode, termination=arrived, **settings)
    assert (ended == 1.0).all()
    assert (returns_of(constant_plans(1.0), explode, **settings) == DIVERGENCE_RETURN).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reward", [1.0, -1.0])
@every_propagation
def test_a_plan_that_diverges_cannot_win(propagate: Any, reward: float, bad: float) -> None:
    """Not even where the reward does not look at the state, is negative, or where all other returns are low."""

    def break_if_positive(state: Tensor, action: Tensor) -> Tensor:
        return torch.where(action > 0, bad, state)

    returns = returns_of(
        constant_plans(-1, 1, -2),
        break_if_positive,
        start=0.0,
        propagation=propagate,
        reward=lambda s, a, n: reward * one_a_step(s, a, n),
        divergence_return=-1e3,
    )
    assert returns[0, 0].tolist() == [reward * H, -1e3, reward * H]
    assert (returns == returns[0, 0]).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_reward_that_is_not_finite_is_a_divergence(bad: float) -> None:
    returns = returns_of(
        constant_plans(0, 1), add_action, start=0.0, reward=lambda s, a, n: where_it_went(s, a, n) * bad
    )
    assert (returns == DIVERGENCE_RETURN).all()


def test_only_the_diverged_particle_is_punished(generator: torch.Generator) -> None:
    def break_if_large(state: Tensor, action: Tensor) -> Tensor:
        return torch.where(state > 1, torch.nan, state)

    returns = returns_of(
        constant_plans(0),
        break_if_large,
        noise_std=1.0,
        start=0.0,
        reward=one_a_step,
        num_theta=40,
        divergence_return=-7.0,
    )
    assert set(returns.unique().tolist()) == {-7.0, float(H)}


def test_no_plan_gains_by_diverging() -> None:
    """A return that is even lower than that of a divergence counts as one."""
    returns = returns_of(constant_plans(-1e9, 1), add_action, start=0.0, reward=where_it_went)
    assert (returns[..., 0] == DIVERGENCE_RETURN).all()
    assert (returns[..., 1] == 15).all()


# Which particles fail


class Kept(FailureObjective):
    """The mean; keeps what it was shown."""

    failing = "state"

    def __call__(self, returns: Tensor, failed: Tensor) -> Tensor:
        self.failed = failed
        return returns.mean((0, 1))


def failed_of(*args: Any, **settings: Any) -> Tensor:
    """Failed [K, M, C], as `returns_of` makes returns."""
    objective = Kept()
    returns_of(*args, objective=objective, **settings)
    assert objective.failed.dtype == torch.bool
    return objective.failed


def on_a_mine(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return (next_state[..., 0] >= 4) & (next_state[..., 0] < 5)


@pytest.mark.parametrize("propagate", [PROPAGATIONS.rows[name].load() for name in ("ts-infinity", "ts-1")])
def test_a_plan_fails_where_it_passes_a_failing_state_while_alive(propagate: Any) -> None:
    """From 0: ones stand on 4 on their way to 5; twos on 4 and then end at 6; threes pass over it, and end at 6; sixes
    end at once; and what goes on to 4 after an end no longer counts."""
    settings = {"start": 0.0, "reward": where_it_went, "failure": on_a_mine, "propagation": propagate}
    failed = failed_of(constant_plans(1, 2, 3, 6, 0.5, 4), add_action, termination=arrived, **settings)
    assert failed.shape == (K, M, 6)
    assert failed[0, 0].tolist() == [True, True, False, False, False, True]
    assert (failed == failed[0, 0]).all()
    back = constant_plans(3).clone()
    back[:, 2:] = -1  # 3, 6, 5, 4, 3
    assert not failed_of(back, add_action, termination=arrived, **settings).any()
    assert failed_of(back, add_action, **settings).all()


def test_the_step_that_ends_an_episode_may_fail() -> None:
    settings = {"start": 0.0, "reward": where_it_went, "failure": arrived, "termination": arrived}
    assert failed_of(constant_plans(1, 2), add_action, **settings)[0, 0].tolist() == [False, True]


@every_propagation
def test_what_diverges_has_failed(propagate: Any) -> None:
    def break_if_positive(state: Tensor, action: Tensor) -> Tensor:
        return torch.where(action > 0, torch.nan, state)

    settings = {"start": 0.0, "reward": one_a_step, "failure": on_a_mine, "propagation": propagate}
    failed = failed_of(constant_plans(-1, 1), break_if_positive, **settings)
    assert (failed == torch.tensor([False, True])).all()


@pytest.mark.parametrize("noise_std", [1.0])
def test_failures_stay_with_their_particle(noise_std: float) -> None:
    """Failed at any time is having been at 2 or more: a particle shows it by its sum of rewards, which is that."""

    def beyond(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state[..., 0] >= 2

    def one_if_beyond(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return beyond(state, action, next_state).to(next_state.dtype)

    for propagate in (row.load() for name, row in PROPAGATIONS.rows.items() if name in ("ts-infinity", "ts-1")):
        settings = {"noise_std": noise_std, "start": 0.0, "reward": one_if_beyond, "propagation": propagate}
        settings |= {"num_theta": 11, "max_particles": 2 * 11 * M}
        failed = failed_of(constant_plans(-1, 0.2, 0), add_action, failure=beyond, **settings)
        returns = returns_of(constant_plans(-1, 0.2, 0), add_action, **settings)
        assert torch.equal(failed, returns > 0)
        assert 0 < failed.sum() < failed.numel()


def test_the_probability_of_failure_is_that_of_the_closed_form() -> None:
    """One step of s' = a + noise: P(s' > 1) = 1 − Φ(1 − a), within five standard errors."""

    def beyond(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state[..., 0] > 1

    plans = torch.tensor([0.0, 0.7, -1.0], dtype=torch.float64)[:, None, None]
    settings = {"noise_std": 1.0, "start": 0.0, "reward": one_a_step, "failure": beyond, "num_theta": 2000}
    share = failed_of(plans, add_action, **settings).double().mean((0, 1))
    expected = 1 - torch.special.ndtr(1 - plans.flatten())
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / (2000 * M)).sqrt()).all()


def test_who_counts_failures_needs_to_be_told_them_and_nobody_else_does() -> None:
    settings = {"start": 0.0, "reward": one_a_step}
    with pytest.raises(ValueError, match="need a failure function, since the objective counts failures"):
        returns_of(constant_plans(1), add_action, objective=Kept(), **settings)
    with pytest.raises(ValueError, match="need no failure function where the objective does not count failures"):
        returns_of(constant_plans(1), add_action, failure=arrived, **settings)


@pytest.mark.parametrize(
    ("count", "at_most", "size"),
    [(6, 100, 6), (6, 0, 1), (6, 4, 3), (7, 4, 4), (500, 409, 256), (800, 409, 400), (100, 409, 112)],
)
def test_chunks_are_equal_and_large_ones_multiples_of_16(count: int, at_most: int, size: int) -> None:
    assert chunk_size(count, at_most) == size


# Gradients past the end


def slope_of(step: Callable[[Tensor, Tensor], Tensor], action: float, **settings: Any) -> tuple[float, list[float]]:
    """(score, its slope by the H actions) of a constant plan from 0 on s' = step(s, a), S = 1, arrived at 6."""
    candidates = constant_plans(action).clone().requires_grad_()
    (score,) = scores = evaluate_plans(
        candidates,
        torch.zeros(1, dtype=torch.float64),
        posterior=Nothing(),
        dynamics=KnownDynamics(step, noise_std=torch.zeros(1, dtype=torch.float64)),
        termination=arrived,
        objective=expected_return(),
        num_theta=K,
        num_noise=M,
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    (slope,) = torch.autograd.grad(scores.sum(), candidates)
    return float(score.detach()), slope.flatten().tolist()


@every_propagation
def test_a_reward_that_is_nan_after_the_end_leaves_the_gradient_alone(propagate: Any) -> None:
    """By fours: 4 + 8, and the end."""

    def undefined_from_6_on(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state[..., 0] + 0 * (6 - state[..., 0]).sqrt()

    assert undefined_from_6_on(*torch.full((3, 1), 7.0)).isnan()
    for reward in (where_it_went, undefined_from_6_on):
        assert slope_of(add_action, 4.0, reward=reward, propagation=propagate) == (12.0, [2.0, 1.0, 0.0, 0.0, 0.0])


def test_of_noisy_particles_those_that_ended_leave_the_gradient_alone(evaluate: Callable[..., Tensor]) -> None:
    """Under TS∞, where some end in every step: the same gradient as by a reward that is sound everywhere."""

    def undefined_outside(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return sharp_reward(state, action, next_state) + 0 * (1.5 - state[..., 0].abs()).sqrt()

    slopes = []
    for reward in (sharp_reward, undefined_outside):
        candidates = (3 * plans()).requires_grad_()
        start = torch.zeros(3, dtype=torch.float64)
        slopes += torch.autograd.grad(
            evaluate(candidates, state=start, termination=leaves_a_box, reward=reward).sum(), candidates
        )
    assert torch.isfinite(slopes[1]).all()
    torch.testing.assert_close(slopes[1], slopes[0])


@pytest.mark.parametrize("propagate", [PROPAGATIONS.rows[name].load() for name in ("ts-infinity", "ts-1")])
def test_a_model_that_overflows_after_the_end_leaves_the_gradient_alone(propagate: Any) -> None:
    """s' = (1 + s) a², by threes at 9 at once, where the slope is 6."""

    def overflows(state: Tensor, action: Tensor) -> Tensor:
        return torch.where(state >= 6, torch.inf * state, (1 + state) * action.square())

    assert slope_of(overflows, 3.0, reward=where_it_went, propagation=propagate) == (9.0, [6.0, 0.0, 0.0, 0.0, 0.0])


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": lambda s, a, n: n.sum()}, r"reward .* states \[[13], 4, 6, S\] .* got float64 \[\]"),
        ({"reward": lambda s, a, n: a.sum(-1)}, r"reward .* got float64 \[6\]: reduce over the last axis alone"),
        ({"reward": lambda s, a, n: n}, r"number for each state.* → \[[13], 4, 6\], got float64 \[[13], 4, 6, 3\]"),
        ({"reward": lambda s, a, n: n[..., 0] > 0}, r"number for each state.* got bool \[[13], 4, 6\]"),
        ({"reward": lambda s, a, n: 1.0}, r"the reward function should return a tensor, .*, got 1\.0"),
        ({"termination": sharp_reward}, r"termination function should return a bool .* got float64 \[[13], 4, 6\]"),
        ({"termination": lambda s, a, n: n > 1}, r"termination .* got bool \[[13], 4, 6, 3\]"),
        (
            {"failure": sharp_reward, "objective": mean_with_failure_limit(0.0, 0.1, 1.0, "state")},
            r"failure function should return a bool .* got float64",
        ),
        ({"num_theta": 0}, "need num_theta and num_noise >= 1, got 0 and 4"),
        ({"num_noise": 0}, "need num_theta and num_noise >= 1, got 3 and 0"),
        ({"candidates": plans(0)}, r"need plans \[C, H, A\] .* got torch.float64 \[0, 5, 2\]"),
        ({"candidates": plans()[:, :0]}, r"need plans .* got torch.float64 \[6, 0, 2\]"),
        ({"candidates": plans()[0]}, r"need plans .* got torch.float64 \[5, 2\]"),
        ({"candidates": plans()[0, 0]}, r"need plans .* got torch.float64 \[2\]"),
        ({"candidates": plans().long()}, "need plans .* got torch.int64"),
        ({"state": torch.full((3,), torch.nan)}, r"need a state of finite numbers, got \[nan, nan, nan\]"),
        ({"state": torch.zeros(2, 3)}, r"need one state \[S\] of floats, got torch.float32 \[2, 3\]"),
    ],
)
@pytest.mark.parametrize("finalists", [{}, {"finalists": 0.5}])
def test_bad_input_is_refused(
    evaluate: Callable[..., Tensor], changes: dict[str, Any], message: str, finalists: dict[str, float]
) -> None:
    settings = {"candidates": plans(), **changes, **finalists}
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        evaluate(**settings)


# Finalists: not all candidates meet all θ


def per_theta_returns(evaluate: Callable[..., Tensor], candidates: Tensor, **settings: Any) -> Tensor:
    """Returns [K, M, C] behind the scores."""
    kept = []

    def objective(returns: Tensor) -> Tensor:
        kept.append(returns)
        return returns.mean((0, 1))

    evaluate(candidates, objective=objective, **settings)
    return kept[-1]


@pytest.mark.parametrize(
    "propagate", [PROPAGATIONS.rows[name].load() for name in ("ts-infinity", "distribution-sampling")]
)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.99])
def test_finalists_get_the_scores_they_would_have_got(
    evaluate: Callable[..., Tensor], propagate: Any, share: float
) -> None:
    candidates, settings = plans(50), {"propagation": propagate, "termination": leaves_a_box, "num_theta": 7}
    with torch.no_grad():
        all_returns = per_theta_returns(evaluate, candidates, **settings)
        got = evaluate(candidates, finalists=share, **settings)
    full, seen = all_returns.mean((0, 1)), all_returns[:2].mean((0, 1))  # 7 // 3 of the θ
    count = math.ceil(share * 50)
    best = seen.topk(count).indices
    dropped = torch.ones(50, dtype=torch.bool).index_fill(0, best, value=False)
    torch.testing.assert_close(got[best], full[best], rtol=1e-9, atol=1e-9)
    too_high = max([0.0, *(seen[dropped] - full[best].min()).tolist()])
    torch.testing.assert_close(got[dropped], seen[dropped] - too_high, rtol=1e-9, atol=1e-9)


def test_who_is_dropped_wins_over_no_finalist(evaluate: Callable[..., Tensor]) -> None:
    """Plans that hardly differ: what was seen of the dropped ones is above the final score of some finalists."""
    overtaken = 0
    with torch.no_grad():
        for seed in range(5):
            full = evaluate(0.01 * plans(50), num_theta=7, seed=seed)
            got = evaluate(0.01 * plans(50), num_theta=7, seed=seed, finalists=0.3)
            final = torch.isclose(got, full, rtol=1e-9, atol=0)
            overtaken += int(torch.isclose(got[~final].max(), got[final].min(), rtol=1e-9, atol=0))
            assert int(final.sum()) >= 15
            assert got.topk(15).values.min() >= got[~final].max()
    assert overtaken > 0


def fixed_returns(returns: Tensor, share: float) -> Tensor:
    """Scores by `evaluate_finalists` of plans with these returns [K, C], the first third of θ first; H = M = 1."""

    def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        some = {2: returns[:2], 4: returns[2:], 6: returns}[len(next_state)]
        return some[:, action[:, 0].long()].unsqueeze(1)

    return evaluate_finalists(
        torch.arange(returns.shape[1], dtype=torch.float64)[:, None, None],
        torch.zeros(1, dtype=torch.float64),
        finalists=share,
        posterior=Nothing(),
        dynamics=KnownDynamics(add_action, noise_std=torch.zeros(1, dtype=torch.float64)),
        reward=reward,
        objective=lambda outcomes: torch.where(outcomes > 1e6, torch.nan, outcomes).mean((0, 1)),
        num_theta=len(returns),
        generator=torch.Generator().manual_seed(0),
    )


def test_a_finalist_that_turns_out_bad_leaves_the_order_of_the_rest() -> None:
    """Plan 4 is best under 2 of 6 θ and lost under the others."""
    returns = torch.arange(5, dtype=torch.float64).repeat(6, 1)
    returns[2:, 4] = -100
    lost = (2 * 4 - 4 * 100) / 6
    assert fixed_returns(returns, 0.4).tolist() == pytest.approx([lost - 2, lost - 1, lost, 3.0, lost])


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("bad", [(4,), (0,), (4, 3), (0, 4, 2)])
def test_a_nan_stays_the_score_of_its_candidate(share: float, bad: tuple[int, ...]) -> None:
    """Seen under the first θ, so that NaN are finalists, and under the last, where finalists alone are asked."""
    returns = torch.arange(5, dtype=torch.float64).repeat(6, 1)
    returns[0, list(bad)] = 2e6
    assert fixed_returns(returns, share).isnan().nonzero().flatten().tolist() == sorted(bad)
    late = torch.arange(5, dtype=torch.float64).repeat(6, 1)
    late[5, 4] = 2e6
    assert fixed_returns(late, share).isnan().tolist() == [False] * 4 + [True]


def test_finalists_keep_the_elites(evaluate: Callable[..., Tensor]) -> None:
    """The ten best of 200 are among the best 60 under two θ of seven: nine or more of them in each of ten draws."""
    with torch.no_grad():
        for seed in range(10):
            few, all_of_them = (
                evaluate(plans(200), num_theta=7, seed=seed, finalists=share).topk(10).indices.tolist()
                for share in (0.3, 1.0)
            )
            assert len({*few} & {*all_of_them}) >= 9


def test_finalists_save_work(evaluate: Callable[..., Tensor]) -> None:
    """90 candidates with 2 of 6 θ, and 18 of them with 4: 252 instead of 540."""
    seen = []

    def counting(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        seen.append(next_state[..., 0].numel())
        return sharp_reward(state, action, next_state)

    with torch.no_grad():
        evaluate(plans(90), reward=counting, num_theta=6, num_noise=1, finalists=0.2)
    assert sum(seen) == H * 252


def test_a_failure_objective_with_finalists(evaluate: Callable[..., Tensor]) -> None:
    """Flags belong to the same plans as returns."""
    settings = {"failure": leaves_a_box, "objective": mean_with_failure_limit(0.0, 0.1, 100.0, "state"), "num_theta": 6}
    with torch.no_grad():
        full, few = (evaluate(plans(40), finalists=share, **settings) for share in (1.0, 0.5))
    same = torch.isclose(full, few, rtol=1e-9)
    assert 20 <= int(same.sum()) < 40


def test_finalists_where_they_cannot_be(evaluate: Callable[..., Tensor]) -> None:
    with torch.no_grad():
        with pytest.raises(ValueError, match="got ts_1: write rollout"):
            evaluate(plans(), finalists=0.5, propagation=ts_1)
        for share in (0.0, -0.1, 1.5, math.nan):
            with pytest.raises(ValueError, match="need 0 < finalists <= 1"):
                evaluate(plans(), finalists=share)
        for smallest in ({"num_theta": 1}, {"num_theta": 2}, {"num_noise": 1}):
            assert torch.isfinite(evaluate(plans(3), finalists=0.01, **smallest)).all()


# Memory


class NewBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators return in memory which is not that of their arguments."""

    total = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operator(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        new = {t.untyped_storage() for t in tree_leaves(results) if isinstance(t, Tensor)}
        self.total += sum(storage.nbytes() for storage in new if storage.data_ptr() not in given)
        return results


@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic", "fixed"])
def test_the_horizon_loop_allocates_nothing(network_problem: Any, transitions: Transitions, noise: str) -> None:
    """Thirty steps take as much new memory as ten, but for the noise, which is drawn, and scaled, before the loop."""
    dynamics, posterior = network_problem(noise=noise)
    never_fails = torch.zeros(K, M, C, dtype=torch.bool)

    def new_bytes(horizon: int, **settings: Any) -> int:
        candidates = plans(C, horizon)
        with torch.no_grad(), NewBytes() as allocated:
            evaluate_plans(
                candidates,
                transitions.state[0],
                posterior=posterior,
                dynamics=dynamics,
                reward=where_it_went,
                num_theta=K,
                num_noise=M,
                generator=torch.Generator().manual_seed(0),
                **{"objective": expected_return(), **settings},
            )
        return allocated.total

    noise_bytes = 3 * K * M * dynamics.output_dim * transitions.state.element_size()
    assert new_bytes(30) - new_bytes(10) == 20 * noise_bytes
    counted: dict[str, Any] = {"objective": Kept(), "failure": lambda *_: never_fails}
    assert new_bytes(30, **counted) - new_bytes(10, **counted) == 20 * noise_bytes


def test_the_count_sees_an_allocation() -> None:
    """So that the test above can fail."""
    x = torch.zeros(7)
    with NewBytes() as allocated:
        torch.add(x, x, out=x).view(1, 7)
        assert allocated.total == 0
        x + 1
    assert allocated.total == 28


# Trajectories to look at


def test_imagined_trajectories_start_at_the_state_and_keep_their_theta(
    network_problem: Any, transitions: Transitions, generator: torch.Generator
) -> None:
    """Without noise, each is the rollout of one of the known θ, whose drifts are told apart by eye."""
    dynamics, _ = network_problem(hidden=(), noise="fixed", noise_std=1e-9)
    weight = torch.zeros(K, 5, 3, dtype=torch.float64)
    drift = torch.arange(K, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    start, plan = transitions.state[4], plans()[0]
    imagined = imagine(
        plan,
        start,
        posterior=DrawsPosterior({"weight_0": weight, "bias_0": drift}),
        dynamics=dynamics,
        num_theta=K,
        num_noise=M,
        generator=generator,
    )
    assert imagined.shape == (K, M, H + 1, 3)
    assert (imagined[:, :, 0] == start).all()
    steps = imagined.diff(dim=2)
    torch.testing.assert_close(steps, steps[:, :1, :1].expand_as(steps), atol=1e-6, rtol=0)
    expected = dynamics.targets.mean + dynamics.targets.std * drift
    torch.testing.assert_close(steps[:, 0, 0].sort(dim=0).values, expected.sort(dim=0).values, atol=1e-6, rtol=0)


def test_imagination_leaves_a_learned_reward_out(
    network_problem: Any, transitions: Transitions, generator: torch.Generator
) -> None:
    dynamics, posterior = network_problem(learns_reward=True)
    imagined = imagine(
        plans()[0], transitions.state[0], posterior=posterior, dynamics=dynamics, num_theta=2, generator=generator
    )
    assert imagined.shape == (2, 1, H + 1, 3)
