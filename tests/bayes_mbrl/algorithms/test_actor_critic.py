"""Soft actor-critic: targets by hand, what each gradient moves, bit-equal going on, and a known optimum."""

import math

import pytest
import torch

from bayes_mbrl.algorithms.actor_critic import SoftActorCritic, one_step
from bayes_mbrl.replay import Batch

LOW, HIGH = torch.tensor([-1.0]), torch.tensor([1.0])


def learner(seed: int = 0, **settings: float) -> SoftActorCritic:
    return SoftActorCritic(
        2,
        LOW,
        HIGH,
        generator=torch.Generator().manual_seed(seed),
        hidden=(32, 32),
        **settings,  # type: ignore[arg-type]
    )


@pytest.fixture
def batch(generator: torch.Generator) -> Batch:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(normal(64, 2), torch.tanh(normal(64, 1)), normal(64), normal(64, 2), torch.arange(64) % 4 == 0)


def test_targets_are_those_of_equation_3(batch: Batch) -> None:
    sac = learner(initial_temperature=0.3, discount=0.9)
    for weight in sac.slow_critics.parameters():  # others than those of the fast ones
        weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(6))
    _, _, target = one_step(sac, batch, torch.Generator().manual_seed(5))
    noise = torch.empty(64, 1).normal_(generator=torch.Generator().manual_seed(5))
    actions, log_density = sac.act(batch.next_state, noise)
    both = sac.slow_critics(batch.next_state, actions)
    value = (torch.minimum(both[0], both[1]) - 0.3 * log_density).detach()
    expected = [
        float(r) if ended else float(r) + 0.9 * float(v)
        for r, v, ended in zip(batch.reward, value, batch.terminated, strict=True)
    ]
    torch.testing.assert_close(target, torch.tensor(expected))
    assert not target.requires_grad


def test_the_two_critics_are_independent_networks(batch: Batch) -> None:
    sac = learner()
    values = sac.critics(batch.state, batch.action)
    x = torch.cat([batch.state, batch.action], 1)
    for critic in (0, 1):
        h = x
        for layer in range(3):
            h = h @ sac.critics.weights[layer][critic] + sac.critics.biases[layer][critic]
            h = torch.relu(h) if layer < 2 else h
        torch.testing.assert_close(values[critic], h[:, 0])
    assert not torch.allclose(values[0], values[1])


def test_an_update_moves_each_part_once(batch: Batch, generator: torch.Generator) -> None:
    sac = learner(target_rate=0.25)
    before = sac.tensors()
    losses = sac.update(batch, generator=generator)
    after = sac.tensors()
    for name in before:
        if not name.startswith("skipped/"):
            assert not torch.equal(before[name], after[name]), name
    for name in before:
        if name.startswith("slow_critics/"):
            fast = after[name.replace("slow_critics/", "critics/")]
            torch.testing.assert_close(after[name], torch.lerp(before[name], fast, 0.25))
    assert all(math.isfinite(float(value)) for value in (losses.critic_loss, losses.policy_loss, losses.temperature))


def test_the_temperature_rises_while_entropy_is_below_its_target(batch: Batch, generator: torch.Generator) -> None:
    for target_entropy, sign in ((50.0, 1), (-50.0, -1)):
        sac = learner(target_entropy=target_entropy)
        sac.update(batch, generator=generator)
        assert math.copysign(1, float(sac.temperature.log.detach())) == sign


def test_a_loaded_learner_goes_on_bit_equal(batch: Batch) -> None:
    one, other = learner(seed=0), learner(seed=1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        one.update(batch, generator=generator)
    other.load(one.tensors())
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    for _ in range(3):
        one.update(batch, generator=generators[0])
        other.update(batch, generator=generators[1])
    for (name, a), b in zip(one.tensors().items(), other.tensors().values(), strict=True):
        assert torch.equal(a, b), name


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need discount <= 1, got 1.5"):
        learner(discount=1.5)
    with pytest.raises(ValueError, match=r"need learning_rate > 0, got 0"):
        learner(learning_rate=0)


@pytest.mark.slow
def test_the_policy_of_a_bandit_is_boltzmann(generator: torch.Generator) -> None:
    """With γ = 0, Q = r, so that π(a | s) ∝ exp(r(s, a) / α) as far as a squashed normal can (eq. 4)."""
    sac = learner(discount=0.0, learning_rate=3e-3, target_entropy=-1.0)
    for _ in range(1500):
        state = torch.randn(128, 2, generator=generator)
        action = 2 * torch.rand(128, 1, generator=generator) - 1
        reward = -4 * (action[:, 0] - 0.5 * torch.tanh(state[:, 0])).square()
        sac.update(Batch(state, action, reward, state, torch.ones(128).bool()), generator=generator)
    state = torch.randn(1000, 2, generator=generator)
    with torch.no_grad():
        mode = sac.policy.mode(state)[:, 0]
        noise = torch.randn(1000, 1, generator=generator)
        _, log_density = sac.policy.sample_with_log_density(state, noise)
    error = mode - 0.5 * torch.tanh(state[:, 0])
    assert float(error.abs().mean()) < 0.07
    assert float(-log_density.mean()) == pytest.approx(-1.0, abs=0.15)


@pytest.mark.parametrize("scale", [0.01, 1000.0])
def test_nothing_depends_on_the_units_of_actions(batch: Batch, scale: float) -> None:
    """Actions within ±0.01 cannot have an entropy of −1 nat in their own units: the target counts half ranges."""
    plain = scaled = learner()
    for factor in (1.0, scale):
        low, high = factor * torch.tensor([-1.0]), factor * torch.tensor([3.0])
        scaled = SoftActorCritic(2, low, high, generator=torch.Generator().manual_seed(0), hidden=(32, 32))
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            scaled.update(batch._replace(action=factor * batch.action), generator=generator)
        plain = scaled if factor == 1 else plain
    expected = plain.tensors()
    for name, value in scaled.tensors().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)
