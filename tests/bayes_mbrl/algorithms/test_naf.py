"""NAF: the argmax against a search, Q by hand, bit-equal going on, and a bandit whose Q it can represent."""

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.naf import NAFLearner
from bayes_mbrl.replay import Batch

LOW, HIGH = torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 2.5])


def learner(seed: int = 0, **settings: float) -> NAFLearner:
    generator = torch.Generator().manual_seed(seed)
    return NAFLearner(3, LOW, HIGH, generator=generator, hidden=(32, 32), **settings)  # type: ignore[arg-type]


def test_its_own_action_is_the_argmax(generator: torch.Generator) -> None:
    naf = learner()
    states = torch.randn(5, 3, generator=generator)
    share = torch.cartesian_prod(torch.linspace(0, 1, 201), torch.linspace(0, 1, 201))
    grid = LOW + (HIGH - LOW) * share
    with torch.no_grad():
        values = naf.policy.q(states[:, None].expand(5, len(grid), 3), grid)
        best = naf.policy.mode(states)
        torch.testing.assert_close(naf.policy.q(states, best), naf.policy.value(states))
    assert bool((values.max(1).values <= naf.policy.value(states).detach() + 1e-6).all())
    cell = (HIGH - LOW) / 200
    assert bool(((grid[values.argmax(1)] - best).abs() <= cell).all())


def test_q_is_the_quadratic_form_written_out(generator: torch.Generator) -> None:
    naf = learner()
    state, action = torch.randn(3, generator=generator), torch.tensor([0.5, 2.1])
    with torch.no_grad():
        value, mean, factor = naf.policy.heads(state)
        away = (action - 0.5 * (LOW + HIGH)) / (0.5 * (HIGH - LOW)) - torch.tanh(mean)
        expected = value - 0.5 * away @ (factor @ factor.T) @ away
        torch.testing.assert_close(naf.policy.q(state, action), expected)
    assert float(factor[0, 1]) == 0
    assert bool((factor.diagonal() > 0).all())


def test_exploration_stays_within_bounds(generator: torch.Generator) -> None:
    naf = learner(exploration_std=3.0)
    states, noise = torch.randn(500, 3, generator=generator), torch.randn(500, 2, generator=generator)
    with torch.no_grad():
        actions = naf.policy.sample(states, noise)
    assert bool(((actions >= LOW) & (actions <= HIGH)).all())
    assert float((actions[:, 0] == LOW[0]).float().mean()) > 0.2


def _bandit(generator: torch.Generator, n: int) -> Batch:
    """r = V(s) − ½ |share − μ(s)|², of actions in units of half their range."""
    state = torch.randn(n, 3, generator=generator)
    share = 2 * torch.rand(n, 2, generator=generator) - 1
    best = 0.5 * torch.tanh(state[:, :2])
    reward = state[:, 2] - 0.5 * (2 * (share - best)).square().sum(1)
    return Batch(state, torch.lerp(LOW, HIGH, 0.5 + 0.5 * share), reward, state, torch.ones(n).bool())


@pytest.mark.slow
def test_it_learns_a_quadratic_bandit(generator: torch.Generator) -> None:
    naf = learner(learning_rate=3e-3)
    for _ in range(1500):
        naf.update(_bandit(generator, 128))
    test = _bandit(generator, 500)
    with torch.no_grad():
        error = naf.policy.q(test.state, test.action) - test.reward
        best = torch.lerp(LOW, HIGH, 0.5 + 0.25 * torch.tanh(test.state[:, :2]))
        away = (naf.policy.mode(test.state) - best) / (HIGH - LOW)
    assert float(error.square().mean()) < 0.05 * float(test.reward.var())
    assert float(away.abs().mean()) < 0.04


def test_targets_look_one_step_ahead_unless_terminal(generator: torch.Generator) -> None:
    naf = learner(discount=0.5)
    batch = _bandit(generator, 4)._replace(terminated=torch.tensor([True, False, True, False]))
    with torch.no_grad():
        slow: Tensor = naf.slow.value(batch.next_state)
        target = batch.reward + 0.5 * slow * ~batch.terminated
        expected = (naf.policy.q(batch.state, batch.action) - target).square().mean()
    torch.testing.assert_close(naf.update(batch), expected)


def test_the_slow_copy_follows_by_its_rate(generator: torch.Generator) -> None:
    naf = learner(target_rate=0.25, learning_rate=1e-2)
    for _ in range(2):  # at the first update it starts out equal
        slow = [value.clone() for value in naf.slow.parameters()]
        naf.update(_bandit(generator, 16))
        for before, after, fast in zip(slow, naf.slow.parameters(), naf.policy.parameters(), strict=True):
            assert not torch.allclose(before, fast)
            torch.testing.assert_close(after, (0.75 * before + 0.25 * fast).detach())


def test_a_loaded_learner_goes_on_bit_equal(generator: torch.Generator) -> None:
    one, other = learner(0), learner(1)
    batches = [_bandit(generator, 16) for _ in range(4)]
    for batch in batches:
        one.update(batch)
    other.load(one.tensors())
    for batch in batches:
        one.update(batch)
        other.update(batch)
    for (name, a), b in zip(one.tensors().items(), other.tensors().values(), strict=True):
        assert torch.equal(a, b), name


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need target_rate > 0, got 0"):
        learner(target_rate=0)
