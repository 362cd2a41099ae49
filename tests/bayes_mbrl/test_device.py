"""Planning where the tensors are: nothing is made on the CPU, and nothing waits for the device.

There is no GPU in most places where this runs. Tensors on torch's device "meta" have no numbers: whoever asks for one,
which on a GPU would wait for it, gets an error; and every result of every operation is looked at.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.environments import rewards
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.planners.base import Planner, search
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.icem import ICEM
from bayes_mbrl.planners.mppi import MPPI
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.planners.random_shooting import RandomShooting
from bayes_mbrl.registry import OBJECTIVES, PROPAGATIONS
from bayes_mbrl.rollout import evaluate_plans

S, A, H = 3, 1, 5
META = torch.device("meta")


class NothingElsewhere(TorchDispatchMode):
    """Fails where an operation returns a tensor that is not on "meta"."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operator(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.device != META:
                raise AssertionError(f"{operator} made a tensor on {result.device}")
        return results


class MetaPosterior(DrawsPosterior):
    """Draws whose order nobody shuffles: random permutations need a generator of the device."""

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        return {name: draws.expand(n, *draws.shape[1:]) for name, draws in self.draws.items()}


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device=META)


def evaluate(plans: Tensor, **settings: Any) -> Tensor:
    """Scores by a network on "meta"."""
    dynamics = NetworkDynamics(
        BayesianNetwork(S + A, S, hidden=(6, 5, 4), device=META),
        features=lambda state: state,
        input_standardiser=Standardiser(meta(S + A), meta(S + A)),
        target_standardiser=Standardiser(meta(S), meta(S)),
        learns_reward=False,
    )
    draws = {name: meta(1, *prior.batch_shape) for name, prior in dynamics.model.prior().items()}
    with torch.no_grad(), NothingElsewhere():
        return evaluate_plans(
            plans,
            meta(S),
            **{
                "posterior": MetaPosterior(draws),
                "dynamics": dynamics,
                "reward": rewards.pendulum_reward,
                "objective": expected_return(),
                "num_theta": 4,
                "num_noise": 2,
                "generator": torch.Generator(),
                **settings,
            },
        )


def test_the_watch_sees_a_tensor_elsewhere_and_a_wait() -> None:
    """So that the tests below can fail."""
    with pytest.raises(AssertionError, match="made a tensor on cpu"):
        evaluate(meta(9, H, A), reward=lambda s, a, n: torch.zeros(n.shape[:-1]).to(META))
    with pytest.raises(RuntimeError, match="meta"):
        evaluate(meta(9, H, A), reward=lambda s, a, n: n[..., 0] * float(n.max()))


@pytest.mark.parametrize("row", PROPAGATIONS.rows.values(), ids=PROPAGATIONS.rows)
def test_the_horizon_stays_on_its_device(row: Any) -> None:
    assert evaluate(meta(9, H, A), propagation=row.load(), termination=rewards.mountain_car_termination).shape == (9,)


@pytest.mark.parametrize("row", OBJECTIVES.rows.values(), ids=OBJECTIVES.rows)
def test_objectives_stay_on_their_device(row: Any) -> None:
    with NothingElsewhere():
        assert row.load()(**row.settings)(meta(4, 2, 9)).shape == (9,)


@pytest.mark.parametrize("settings", [{"finalists": 0.3}, {"bf16": True}, {"max_particles": 20}], ids=str)
def test_what_saves_work_stays_on_its_device(settings: dict[str, Any]) -> None:
    assert evaluate(meta(9, H, A), **settings).shape == (9,)


def on_meta(make: Callable[[Tensor, Tensor], Planner[Any]]) -> Planner[Any]:
    """The planner with bounds that nobody can look at any more: they are checked when it is made."""
    planner = make(torch.tensor([-2.0]), torch.tensor([2.0]))
    object.__setattr__(planner, "low", meta(A))
    object.__setattr__(planner, "high", meta(A))
    return planner


PLANNERS = {
    "cem": lambda low, high: CEM(low, high, H, 20, 5, 3),
    "icem": lambda low, high: ICEM(low, high, H, 20, 5, 3),
    "mppi": lambda low, high: MPPI(low, high, H, 20, 3, smoothing=0.5),
    "random-shooting": lambda low, high: RandomShooting(low, high, H, 20, 3),
}


@pytest.mark.parametrize("make", PLANNERS.values(), ids=PLANNERS)
def test_a_search_waits_once_at_its_end(make: Callable[[Tensor, Tensor], Planner[Any]]) -> None:
    """All iterations are done when the scores are looked at."""
    planner, calls = on_meta(make), []

    def score(plans: Tensor) -> Tensor:
        calls.append(len(plans))
        return evaluate(plans)

    with NothingElsewhere():
        start = planner.shift(planner.init())
        with pytest.raises(RuntimeError, match="meta"):
            search(planner, start, score, generator=torch.Generator())
    assert len(calls) == 3


def test_on_a_gpu() -> None:
    """The scores of the CPU, up to rounding, with one θ and hardly any noise."""
    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: planning on a GPU, since there is none here")
    generator = torch.Generator().manual_seed(0)
    theta = BayesianNetwork(S + A, S, noise="fixed").initial(1, generator=generator)
    plans, state = torch.rand(9, H, A, generator=generator), torch.rand(S, generator=generator)

    def scores(device: str) -> Tensor:
        ones = torch.ones(S + A, device=device)
        dynamics = NetworkDynamics(
            BayesianNetwork(S + A, S, noise="fixed", noise_std=1e-7, device=device),
            features=lambda state: state,
            input_standardiser=Standardiser(0 * ones, ones),
            target_standardiser=Standardiser(0 * ones[:S], ones[:S]),
            learns_reward=False,
        )
        with torch.no_grad():
            return evaluate_plans(
                plans.to(device),
                state.to(device),
                posterior=DrawsPosterior({name: value.to(device) for name, value in theta.items()}),
                dynamics=dynamics,
                reward=rewards.pendulum_reward,
                objective=expected_return(),
                num_theta=3,
                generator=torch.Generator(device).manual_seed(0),
            ).cpu()

    torch.testing.assert_close(scores("cuda"), scores("cpu"), rtol=1e-3, atol=1e-3)
