"""Planning where the tensors are: nothing is made on the CPU, and nothing waits for the device.

There is no GPU in most places where this runs. Tensors on torch's device "meta" have no numbers: whoever asks for one,
which on a GPU would wait for it, gets an error; and every result of every operation is looked at.
"""

import dataclasses
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

from bayes_mbrl import build, devices
from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.build import Builder
from bayes_mbrl.cli import app
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.devices import OnDevice
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.environments import rewards
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.finalists import evaluate_finalists
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.planners import base
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
        return (evaluate_finalists if "finalists" in settings else evaluate_plans)(
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


# The border: an environment on the CPU, plans elsewhere


def builder(*overrides: str) -> Builder:
    with Environment("Pendulum-v1") as environment:
        return Builder(resolve(["planner.num_candidates=20", "posterior.num_steps=5", *overrides]), environment)


@pytest.fixture
def rows(generator: torch.Generator) -> Transitions:
    """Of Pendulum-v1's shapes."""
    state, action = torch.randn(30, S, generator=generator), torch.randn(30, A, generator=generator)
    flags = torch.zeros(30)
    return Transitions(state, action, flags, state + 0.1 * action, flags.bool(), flags.long())


@pytest.mark.parametrize("overrides", [[], ["planner=mppi"], ["planner=icem"]], ids=str)
def test_what_acts_has_all_it_needs_on_its_device(
    rows: Transitions, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the observation to the end of the search, where the scores are looked at. A normal posterior: stored draws
    are shuffled on the generator's device, which "meta" has not."""
    at_home = builder(*overrides)
    planner = at_home.planner()
    posterior, _ = at_home.fit(rows, None, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(build, "find_device", lambda name: META)
    for module in (build, devices):
        monkeypatch.setattr(module, "generator_on", lambda device: torch.Generator())
    monkeypatch.setattr(Builder, "planner", lambda self: on_meta(lambda low, high: planner))
    agent = at_home.exploring_agent(rows, posterior)
    observation, generator = rows.state[0], torch.Generator().manual_seed(0)
    waits = []
    monkeypatch.setattr(base, "_require_finite", lambda scores: waits.append(scores.device))
    assert isinstance(agent, OnDevice)
    with torch.no_grad(), NothingElsewhere():
        action, _ = agent.agent.act(observation.to(META), None, generator=generator)
    assert action.device == META
    assert waits == [META]


def test_the_border() -> None:
    """Another generator every step, and the same under the same seed; the action comes back."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class Noting(Agent):
        def act(self, observation: Tensor, memory: Any, *, generator: torch.Generator) -> tuple[Tensor, Any]:
            return observation + torch.rand(1, generator=generator), (memory or 0) + 1

    agent = OnDevice(Noting(), torch.device("cpu"))

    def actions() -> list[float]:
        generator, memory, seen = torch.Generator().manual_seed(3), None, []
        for _ in range(3):
            action, memory = agent.act(torch.zeros(1), memory, generator=generator)
            seen.append(float(action))
        assert memory == 3
        return seen

    assert actions() == actions()
    assert len(set(actions())) == 3


def test_devices_that_are_not_there() -> None:
    assert devices.find_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "gpu", "", "meta"):
        with pytest.raises(UserError, match=f"device '{name}' does not exist here: device is one of cpu"):
            builder(f"device='{name}'")


def test_the_first_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.find_device("cuda") == torch.device("cuda:0")
    assert devices.find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="one of cpu, cuda:0, cuda:1"):
        devices.find_device("cuda:2")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["dynamics=physics"], "device cuda is for dynamics network and linear, got physics"),
        (
            ["dynamics.likelihood=student-t"],
            "device cuda is for dynamics.likelihood=normal: student-t is drawn by SciPy",
        ),
        (["recalibration=quantile"], "device cuda is for recalibration none, got quantile"),
        (["planner=ilqr"], "device cuda is for planners of continuous actions by scores"),
    ],
)
def test_what_cannot_be_elsewhere(overrides: list[str], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with Environment("Pendulum-v1") as environment, pytest.raises(UserError, match=problem):
        Builder(resolve(["device=cuda", *overrides]), environment)


def test_nothing_is_made_of_a_run_on_a_device_that_is_not_there(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    before = random.getstate()
    result = CliRunner().invoke(app, ["run", "--device", "cuda:99", "--out", str(folder)])
    random.setstate(before)  # tempfile's, of the libraries that the command loads
    assert result.exit_code == 2
    assert "device 'cuda:99' does not exist here" in result.output
    assert not folder.exists()


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
