"""Policy gradient: unbiased against quadrature, rewards to go by hand, the clip, bit-equal going on, a task."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms import policy_gradient
from bayes_mbrl.algorithms.model_validation import mean_returns
from bayes_mbrl.algorithms.policy_gradient import PolicyGradientLearner, Samples, rewards_to_go
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import Imagined, World
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior

LOW, HIGH = torch.tensor([-1.0]), torch.tensor([2.0])


def learner(seed: int = 0, **settings: object) -> PolicyGradientLearner:
    generator = torch.Generator().manual_seed(seed)
    return PolicyGradientLearner(1, LOW, HIGH, generator=generator, hidden=(8,), **settings)  # type: ignore[arg-type]


def world(dtype: torch.dtype = torch.float32) -> World:
    dynamics = KnownDynamics(lambda s, a: 0.9 * s + 0.5 * a, noise_std=torch.zeros(1, dtype=dtype))
    return World(Nothing(), dynamics, lambda s, a, n: -(n[..., 0] - 0.7).square() - 0.1 * a[..., 0].square(), None)


@pytest.mark.slow
def test_the_estimator_is_unbiased_for_the_exact_gradient(generator: torch.Generator) -> None:
    """Two steps from one state: the expectation over both actions is a double integral, done by quadrature."""
    pg = learner(clip=None, num_epochs=1, normalise=False, discount=1.0)
    model, start = world(), torch.tensor([[[0.3]]])
    nodes, weights = _quadrature(401)

    def expected_return() -> Tensor:
        states = start[0, 0].expand(len(nodes), 1)
        first = pg.policy.sample(states, nodes[:, None])
        middle, reward, _ = model.step({}, states[None], first[None], torch.zeros(1, len(nodes), 1))
        pairs = torch.cartesian_prod(torch.arange(len(nodes)), torch.arange(len(nodes)))
        second_states = middle[0][pairs[:, 0]]
        second = pg.policy.sample(second_states, nodes[pairs[:, 1], None])
        _, more, _ = model.step({}, second_states[None], second[None], torch.zeros(1, len(pairs), 1))
        return (weights * reward[0]).sum() + (weights[pairs[:, 0]] * weights[pairs[:, 1]] * more[0]).sum()

    parameters = list(pg.policy.parameters())
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(expected_return(), parameters)])
    estimates = []
    for _ in range(300):
        samples = pg.sample(model, start.expand(1, 200, 1), {}, horizon=2, generator=generator)
        gradient = torch.autograd.grad(2 * pg.surrogate(samples), parameters)  # 2: a sum over steps, not their mean
        estimates.append(torch.cat([g.flatten() for g in gradient]))
    measured = torch.stack(estimates)
    error = measured.std(0) / len(measured) ** 0.5
    assert bool(((measured.mean(0) - exact).abs() < 5 * error + 1e-5).all())
    assert float(exact.norm()) > 20 * float(error.norm())


def _quadrature(num: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations under N(0, 1): many of them, since the networks have kinks."""
    nodes = torch.linspace(-6, 6, num)
    weights = torch.exp(-0.5 * nodes.square())
    return nodes, weights / weights.sum()


def test_rewards_to_go_by_hand() -> None:
    rewards = torch.tensor([[[1.0, 5.0]], [[2.0, 7.0]], [[4.0, 0.0]]])
    nothing = torch.zeros(3, 1, 2, dtype=torch.bool)
    imagined = Imagined(torch.zeros(4, 1, 2, 1), torch.zeros(3, 1, 2, 1), rewards, ~nothing, nothing)
    assert rewards_to_go(imagined, 0.5)[:, 0].tolist() == [[3.0, 8.5], [4.0, 7.0], [4.0, 0.0]]


def test_the_clip_stops_the_gradient_where_the_ratio_has_gone_too_far() -> None:
    pg = learner(clip=0.2)
    states = torch.zeros(1, 1)
    mean, log_std = (x.detach() for x in pg.policy.unsquashed(states))
    u = mean + 0.5 * log_std.exp()
    now = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(-1)
    for ratio, advantage in itertools.product((0.5, 1.0, 1.5), (-1.0, 1.0)):
        advantages = torch.tensor([advantage])
        samples = Samples(states, u, now - torch.tensor(ratio).log(), advantages, torch.zeros(1), 1.0)
        value = pg.surrogate(samples)
        clipped = min(max(ratio, 0.8), 1.2)
        assert float(value.detach()) == pytest.approx(min(ratio * advantage, clipped * advantage), rel=1e-5)
        gradient = torch.autograd.grad(value, list(pg.policy.parameters()))
        stopped = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
        assert all(not bool(g.any()) for g in gradient) == stopped


def test_steps_that_were_not_lived_teach_nothing(generator: torch.Generator) -> None:
    model = world()
    ending = World(model.posterior, model.dynamics, model.reward, lambda s, a, n: n[..., 0] > -10)  # at once
    samples = learner().sample(ending, torch.zeros(1, 6, 1), {}, horizon=5, generator=generator)
    assert len(samples.states) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "num_epochs"), [(0.2, 5), (None, 1)])
def test_it_learns_to_steer(clip: float | None, num_epochs: int, generator: torch.Generator) -> None:
    pg, model = learner(clip=clip, num_epochs=num_epochs, learning_rate=1e-2, discount=0.9), world()

    def mean_return() -> float:
        starts = torch.linspace(-1, 1, 20).view(1, 20, 1)
        randomness = model.draw(10, starts, 1, generator=torch.Generator().manual_seed(0))
        still = randomness._replace(policy_noise=torch.zeros(10, 1, 20, 1))
        return float(mean_returns(model, pg.policy, starts, still).mean())

    before = mean_return()
    for _ in range(150):
        starts = 2 * torch.rand(1, 100, 1, generator=generator) - 1
        pg.improve(model, starts, {}, horizon=10, generator=generator)
    # The best constant tracking of 0.7 costs 0.1 a² = 0.1 · 0.14² a step, after a first move of up to 1 + 0.9.
    assert before < -2.0
    assert mean_return() > -1.2


def test_a_loaded_learner_goes_on_bit_equal() -> None:
    one, other = learner(0), learner(1)
    one.improve(world(), torch.zeros(1, 9, 1), {}, horizon=4, generator=torch.Generator().manual_seed(1))
    other.load(one.tensors())
    for pg in (one, other):
        pg.improve(world(), torch.zeros(1, 9, 1), {}, horizon=4, generator=torch.Generator().manual_seed(2))
    for (name, a), b in zip(one.tensors().items(), other.tensors().values(), strict=True):
        assert torch.equal(a, b), name


def test_more_epochs_without_a_clip_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need num_epochs = 1 without clip, got 10"):
        learner(clip=None)


def test_a_trajectory_that_diverged_is_left_out_as_a_whole(generator: torch.Generator) -> None:
    """Else its end, after which no reward is lost, would be worth reaching."""
    sound = world()
    dynamics = KnownDynamics(lambda s, a: torch.where(s > 0, 2 * s + 1e30, 0.5 * s), noise_std=torch.zeros(1))
    model = World(sound.posterior, dynamics, sound.reward, None)
    starts = torch.tensor([[[-0.5], [0.5], [-0.3]]])
    samples = learner().sample(model, starts, {}, horizon=4, generator=generator)
    assert len(samples.states) == 2 * 4
    assert bool((samples.states < 0).all())
    assert samples.share_sound == pytest.approx(2 / 3)


def test_the_baseline_is_what_returns_are_held_against(generator: torch.Generator) -> None:
    pg, start = learner(normalise=False, baseline_learning_rate=0.05), torch.full((1, 30, 1), 0.4)
    before = pg.sample(world(), start, {}, horizon=3, generator=generator)
    values = pg.baseline(pg.policy.inputs(before.states)).squeeze(-1)
    assert float(values.detach().abs().min()) > 1e-3
    torch.testing.assert_close(before.advantages, (before.to_go - values).detach())
    for _ in range(20):
        pg.improve(world(), start, {}, horizon=3, generator=generator)
    after = pg.sample(world(), start, {}, horizon=3, generator=generator)
    assert float(after.advantages.square().mean()) < 0.5 * float(after.to_go.square().mean())


def diverging(until: float = math.inf) -> World:
    """From below `until` a step leads beyond all reason."""
    dynamics = KnownDynamics(lambda s, a: torch.where(s < until, s + 1e35, s), noise_std=torch.zeros(1))
    return dataclasses.replace(world(), dynamics=dynamics, num_theta=2)


def test_learning_from_nothing_is_skipped_and_the_third_time_refused() -> None:
    pg, rounds = learner(horizon=3, num_rounds=5), list[None]()
    before = pg.tensors()
    with pytest.raises(UserError, match=r"every imagined trajectory diverged in 3 steps in a row.*algorithm\.horizon"):
        pg.after_fit(diverging(), _transitions(), generator=torch.Generator(), advance=lambda: rounds.append(None))
    assert len(rounds) == 2
    assert pg.warnings() == ["every imagined trajectory diverged: this step of learning is skipped"] * 3
    after = pg.tensors()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "network" in name)


def test_the_share_of_trajectories_that_did_not_diverge_is_told() -> None:
    for until, share in [(-10.0, 1.0), (0.0, 0.5)]:
        pg = learner(horizon=3, num_rounds=1, num_starts=500, starts="visited")
        pg.after_fit(diverging(until), _transitions(), generator=torch.Generator(), advance=lambda: None)
        assert pg.report()["share_sound"] == pytest.approx(share, abs=0.08)
        (told,) = pg.warnings() or ["nothing"]
        assert ("of the imagined trajectories diverged" in told) == (share < 1)


class _Sloping(KnownDynamics):
    """s' = s + slope · a: models with slopes of other signs want other actions."""

    def sample(self, theta: Theta, states: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        return states + theta["slope"].view(-1, 1, 1) * actions


def _sloping(*slopes: float) -> World:
    """r = s'."""
    posterior = DrawsPosterior({"slope": torch.tensor(slopes)})
    dynamics = _Sloping(lambda s, a: s, noise_std=torch.zeros(1))
    return World(posterior, dynamics, lambda s, a, n: n[..., 0], None, num_theta=2)


def _transitions(num: int = 6) -> Transitions:
    state = torch.linspace(-1, 1, num)[:, None]
    nothing = torch.zeros(num)
    return Transitions(state, torch.zeros(num, 1), nothing, state, nothing.bool(), torch.arange(num) // 2)


def _improved(model: World, num_rounds: int, **settings: Any) -> tuple[PolicyGradientLearner, int]:
    """The learner after a fit, and how many rounds it took."""
    chosen = {
        "horizon": 3,
        "num_starts": 20,
        "learning_rate": 1e-2,
        "num_held_out": 2,
        "validate_every": 2,
        "patience": 1,
    }
    pg = learner(num_rounds=num_rounds, **{**chosen, **settings})
    rounds: list[None] = []
    generator = torch.Generator().manual_seed(3)
    pg.after_fit(model, _transitions(), generator=generator, advance=lambda: rounds.append(None))
    return pg, len(rounds)


def test_it_goes_on_while_held_out_models_agree() -> None:
    pg, num_rounds = _improved(_sloping(1.0, 1.0, 1.0, 1.0), 10)
    assert num_rounds == 10
    assert pg.report()["share_improved"] == 1.0
    assert pg.report()["num_rounds"] == 10
    with torch.no_grad():
        assert float(pg.policy.mode(torch.zeros(1, 1))) > float(learner().policy.mode(torch.zeros(1, 1)))


@pytest.mark.parametrize("patience", [1, 3])
def test_it_stops_where_they_get_worse_and_keeps_the_policy_that_they_last_approved_of(
    patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models of the training reward what the held-out ones punish: every check fails."""
    model, held_out = _sloping(1.0, 1.0), {"slope": torch.tensor([-1.0, -1.0])}
    monkeypatch.setattr(policy_gradient, "held_out_models", lambda *_, **__: (model.posterior, held_out))
    pg, num_rounds = _improved(model, 20, patience=patience)
    assert num_rounds == 2 * patience
    assert pg.report()["share_improved"] == 0.0
    untouched = learner()
    untouched.policy.standardise(_transitions().state)
    for name, value in untouched.tensors().items():
        assert torch.equal(value, pg.tensors()[name]), name


def test_some_models_that_get_worse_are_outvoted(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = {"slope": torch.tensor([1.0, 1.0, 1.0, -1.0])}
    model = _sloping(1.0, 1.0)
    monkeypatch.setattr(policy_gradient, "held_out_models", lambda *_, **__: (model.posterior, held_out))
    pg, num_rounds = _improved(model, 6, min_share_improved=0.7)
    assert (num_rounds, pg.report()["share_improved"]) == (6, 0.75)
    assert _improved(model, 6, min_share_improved=0.8)[1] == 2


def test_no_theta_that_validates_is_trained_in(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, asked = set[float](), set[float]()

    class Seen(_Sloping):
        def sample(self, theta: Theta, states: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
            (trained if training else asked).update(theta["slope"].tolist())
            return super().sample(theta, states, actions, noise)

    training = False
    improve = PolicyGradientLearner.improve

    def noted(*arguments: Any, **more: Any) -> Any:
        nonlocal training
        training = True
        told = improve(*arguments, **more)
        training = False
        return told

    monkeypatch.setattr(PolicyGradientLearner, "improve", noted)
    model = dataclasses.replace(
        _sloping(*range(1, 9)), dynamics=Seen(lambda s, a: s, noise_std=torch.zeros(1)), num_theta=4
    )
    _improved(model, 20, num_held_out=4, patience=20)
    assert len(asked) == 4
    assert trained == set(range(1, 9)) - asked
