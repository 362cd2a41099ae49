from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.model_validation import ModelValidation, held_out_models, mean_returns
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.imagination import Randomness, World
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.svi import MeanFieldPosterior
from bayes_mbrl.planners.propagation import ts_1, ts_infinity
from bayes_mbrl.policies import Policy, make_policy


def _world(**more: Any) -> World:
    """s' = s + a, r = s'."""
    dynamics = KnownDynamics(lambda s, a: s + a, noise_std=torch.zeros(1))
    return World(Nothing(), dynamics, lambda s, a, n: n[..., 0], more.get("termination"))


def _always(action: float) -> Policy:
    policy = make_policy("linear", 1, -torch.ones(1), torch.ones(1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight, bias = policy.parameters()
        weight.zero_()
        bias.copy_(torch.atanh(torch.tensor([action])))
    return policy


def _still(model: World, starts: Tensor, horizon: int) -> Randomness:
    return model.draw(horizon, starts, 1, generator=torch.Generator().manual_seed(0))


def test_returns_are_means_over_the_starts_of_each_model() -> None:
    starts = torch.tensor([[[0.0], [2.0]], [[1.0], [1.0]], [[0.0], [-4.0]]])
    model = _world()
    returns = mean_returns(model, _always(0.5), starts, _still(model, starts, 2))
    torch.testing.assert_close(returns, torch.tensor([3.5, 3.5, -2.5]))  # 0.5 + 1 from 0, undiscounted


def test_a_trajectory_that_diverged_beats_nothing_and_one_that_ended_counts() -> None:
    starts = torch.tensor([[[0.0], [0.2]], [[0.0], [1e32]]])
    model = _world(termination=lambda s, a, n: n[..., 0] > 0.6)
    returns = mean_returns(model, _always(0.5), starts, _still(model, starts, 3))
    torch.testing.assert_close(returns, torch.tensor([(0.5 + 1.0 + 0.7) / 2, -torch.inf]))


def test_a_check_is_held_against_the_last_one_that_passed() -> None:
    model, starts = _world(), torch.zeros(4, 3, 1)
    validation = ModelValidation.begin(
        model, {}, _always(0.0), starts, horizon=2, min_share=0.7, generator=torch.Generator().manual_seed(0)
    )
    assert validation.check(_always(0.5)) == (1.0, True)
    assert validation.check(_always(0.3)) == (0.0, False)
    assert validation.check(_always(0.4)) == (0.0, False)  # better than the last one, which had failed
    assert validation.check(_always(0.5)) == (0.0, False)  # equal is no gain
    assert validation.check(_always(0.6)) == (1.0, True)
    torch.testing.assert_close(validation.returns, torch.full((4,), 1.8))


def test_the_same_policy_has_the_same_returns_at_every_check() -> None:
    dynamics = KnownDynamics(lambda s, a: s + a, noise_std=torch.ones(1))
    model = World(Nothing(), dynamics, lambda s, a, n: n[..., 0], None)
    policy = make_policy("tanh-gaussian", 1, -torch.ones(1), torch.ones(1), generator=torch.Generator().manual_seed(0))
    validation = ModelValidation.begin(
        model, {}, policy, torch.zeros(2, 3, 1), horizon=4, min_share=0.0, generator=torch.Generator().manual_seed(0)
    )
    before = validation.returns
    validation.check(policy)
    assert torch.equal(validation.returns, before)


def test_each_model_is_asked_for_itself_whatever_the_propagation() -> None:
    """s' = slope · s + a: under TS1 trajectories would meet the other models too."""

    class Scaling(KnownDynamics):
        def sample(self, theta: Theta, states: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
            return theta["slope"].view(-1, 1, 1) * states + actions

    theta = {"slope": torch.tensor([0.0, 1.0, 2.0])}
    dynamics = Scaling(lambda s, a: s, noise_std=torch.zeros(1))
    for propagation in (ts_1, ts_infinity):
        model = World(DrawsPosterior(theta), dynamics, lambda s, a, n: n[..., 0], None, 3, propagation)
        validation = ModelValidation.begin(
            model, theta, _always(0.0), torch.ones(3, 5, 1), horizon=3, min_share=0.7, generator=torch.Generator()
        )
        torch.testing.assert_close(validation.returns, torch.tensor([0.0, 3.0, 2.0 + 4.0 + 8.0]))


@pytest.mark.parametrize(("num_draws", "asked", "num_held_out"), [(5, 10, 2), (5, 1, 1), (2, 10, 1), (30, 10, 10)])
def test_stored_draws_are_split(num_draws: int, asked: int, num_held_out: int, generator: torch.Generator) -> None:
    posterior = DrawsPosterior({"w": torch.arange(float(num_draws))})
    kept, held_out = held_out_models(posterior, asked, generator=generator)
    assert len(held_out["w"]) == num_held_out
    together = torch.cat([kept.tensors()["w"], held_out["w"]])
    assert torch.equal(together.sort().values, posterior.draws["w"])


def test_one_draw_is_in_both(generator: torch.Generator) -> None:
    posterior = DrawsPosterior({"w": torch.tensor([3.0])})
    kept, held_out = held_out_models(posterior, 4, generator=generator)
    assert torch.equal(kept.tensors()["w"], held_out["w"])


def test_of_a_density_new_samples_are_held_out(generator: torch.Generator) -> None:
    posterior = MeanFieldPosterior(loc={"w": torch.zeros(3)}, scale={"w": torch.ones(3)})
    kept, held_out = held_out_models(posterior, 4, generator=generator)
    assert kept is posterior
    assert held_out["w"].shape == (4, 3)
    assert len(held_out["w"].unique()) == 12
