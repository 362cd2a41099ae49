"""One update of our soft actor-critic against Stable-Baselines3's, from the same weights, batch and noise."""

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.actor_critic import SoftActorCritic
from bayes_mbrl.replay import Batch

STATE_DIM, ACTION_DIM, NUM_ROWS = 3, 2, 40
HIDDEN = (7, 5)
LOW, HIGH = torch.tensor([-2.0, -0.1]), torch.tensor([3.0, 0.0])
RATE, DISCOUNT, TAU, ENTROPY = 3e-3, 0.9, 0.02, -1.5


class Blank(gymnasium.Env[Any, Any]):
    """Spaces alone."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(LOW.numpy(), HIGH.numpy(), dtype=np.float32)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    state = random.getstate()  # which the import moves
    sb3 = pytest.importorskip("stable_baselines3", reason="NOT TESTED: needs the extra sb3")
    from stable_baselines3.common.logger import Logger

    random.setstate(state)
    monkeypatch.setattr("stable_baselines3.common.base_class.set_random_seed", lambda *_, **__: None)
    with torch.random.fork_rng(devices=[]):  # it draws its weights from the global state
        model = sb3.SAC(
            "MlpPolicy", Blank(), learning_rate=RATE, gamma=DISCOUNT, tau=TAU, target_entropy=ENTROPY, buffer_size=1,
            policy_kwargs={"net_arch": list(HIDDEN)}, device="cpu",
        )  # fmt: skip
        model.set_logger(Logger(None, []))
        model.actor.action_dist.epsilon = 0.0  # added to 1 − tanh² u, it changes log π by 0.26 where u is 7
        yield model


@pytest.fixture
def ours(generator: torch.Generator) -> SoftActorCritic:
    learner = SoftActorCritic(
        STATE_DIM, LOW, HIGH, generator=generator, hidden=HIDDEN, learning_rate=RATE, discount=DISCOUNT,
        target_rate=TAU, target_entropy=ENTROPY,
    )  # fmt: skip
    for weight in learner.slow_critics.parameters():  # others than the fast ones
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return learner


def _batch(generator: torch.Generator) -> Batch:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    actions = torch.lerp(LOW, HIGH, 0.5 + 0.5 * normal(NUM_ROWS, ACTION_DIM).tanh())
    ends = torch.rand(NUM_ROWS, generator=generator) < 0.3
    return Batch(normal(NUM_ROWS, STATE_DIM), actions, normal(NUM_ROWS), normal(NUM_ROWS, STATE_DIM), ends)


def _copy(ours: SoftActorCritic, theirs: Any) -> None:
    """Our weights into their networks."""
    layers = [layer for layer in ours.policy.network if isinstance(layer, torch.nn.Linear)]
    actor = theirs.actor
    hidden = [layer for layer in actor.latent_pi if isinstance(layer, torch.nn.Linear)]
    for mine, other in zip(layers[:-1], hidden, strict=True):
        other.load_state_dict(mine.state_dict())
    for part, other in enumerate((actor.mu, actor.log_std)):
        rows = slice(part * ACTION_DIM, (part + 1) * ACTION_DIM)
        other.weight.data, other.bias.data = layers[-1].weight.data[rows].clone(), layers[-1].bias.data[rows].clone()
    for mine, critics in ((ours.critics, theirs.critic), (ours.slow_critics, theirs.critic_target)):
        for number, network in enumerate(critics.q_networks):
            linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
            for layer, weight, bias in zip(linear, mine.weights, mine.biases, strict=True):
                layer.weight.data, layer.bias.data = weight.data[number].T.clone(), bias.data[number].clone()


def _scaled(actions: Tensor) -> Tensor:
    """In units of half their range, as Stable-Baselines3 has all actions."""
    return 2 * (actions - LOW) / (HIGH - LOW) - 1


def _their_update(theirs: Any, batch: Batch, noise: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """By this noise: for the actions of the states first, then for those of what followed."""
    rows = SimpleNamespace(
        observations=batch.state, actions=_scaled(batch.action), rewards=batch.reward[:, None],
        next_observations=batch.next_state, dones=batch.terminated.float()[:, None], discounts=None,
    )  # fmt: skip
    theirs.replay_buffer = SimpleNamespace(sample=lambda *_, **__: rows)
    draws = iter(noise)
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda normal: normal.loc + normal.scale * next(draws))
    theirs.train(1, batch_size=NUM_ROWS)
    return dict(theirs.logger.name_to_value)


def test_losses_and_weights_after_updates_are_those_of_stable_baselines3(
    ours: SoftActorCritic, theirs: Any, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _copy(ours, theirs)
    for _ in range(3):
        batch, seed = _batch(generator), int(torch.randint(2**31, (), generator=generator))
        again = torch.Generator().manual_seed(seed)
        following, present = (torch.randn(NUM_ROWS, ACTION_DIM, generator=again) for _ in range(2))
        told = _their_update(theirs, batch, [present, following], monkeypatch)
        losses = ours.update(batch, generator=torch.Generator().manual_seed(seed))
        assert float(losses.critic_loss) == pytest.approx(told["train/critic_loss"], rel=1e-4)
        assert float(losses.policy_loss) == pytest.approx(told["train/actor_loss"], rel=1e-4)
        assert float(losses.temperature) == pytest.approx(told["train/ent_coef"], rel=1e-3)
    states = _batch(generator).state
    with torch.no_grad():
        mean, log_std, _ = theirs.actor.get_action_dist_params(states)
        own_mean, own_log_std = ours.policy.unsquashed(states)
        torch.testing.assert_close(own_mean, mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(own_log_std, log_std, rtol=1e-3, atol=1e-4)
        actions = torch.lerp(LOW, HIGH, 0.5 + 0.5 * own_mean.tanh())
        for mine, critics in ((ours.critics, theirs.critic), (ours.slow_critics, theirs.critic_target)):
            values = torch.cat(critics(states, _scaled(actions)), dim=1).T
            torch.testing.assert_close(mine(states, actions), values, rtol=1e-3, atol=1e-4)
