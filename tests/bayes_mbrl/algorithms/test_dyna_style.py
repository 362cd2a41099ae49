"""The Dyna-style recipe: schedule, shares and starts of what is imagined, in a world known exactly; bad input."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_runs import configure, start

from bayes_mbrl.algorithms.dyna_style import DynaStyle, DynaStyleLearner, Imagining
from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.algorithms.learner import Task
from bayes_mbrl.algorithms.mba import MBA
from bayes_mbrl.algorithms.mbpo import MBPO
from bayes_mbrl.algorithms.mve import MVE
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.rewards import continuous_cartpole_termination
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import World
from bayes_mbrl.policies import Policy, make_policy
from bayes_mbrl.replay import Batch

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.5])
DRIFT = "toy_environments:Drift-v0"


class Nobody(GradientLearner):
    """Has a policy, and notes what it is shown instead of learning."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.policy: Policy = make_policy("deterministic", 1, LOW, HIGH, hidden=(4,), generator=generator)
        self.seen: list[Batch] = []

    def update(self, batch: Batch, world: World | None, generator: torch.Generator) -> Mapping[str, Tensor]:
        self.seen.append(batch)
        return {"size": torch.tensor(float(len(batch.reward)))}


def recipe(nobody: Nobody, imagination: Imagining | None, **settings: int) -> DynaStyleLearner:
    arguments = {"updates_per_step": 3, "batch_size": 20, "capacity": 100, **settings}
    return DynaStyleLearner(nobody, nobody.update, imagination=imagination, **arguments)


def world(limit: float = math.inf) -> World:
    """s' = s + 100: what is imagined can be told from what is real, s < 100, and in which step it was."""
    dynamics = KnownDynamics(lambda s, a: s + 100, noise_std=torch.zeros(1))
    return World(Nothing(), dynamics, lambda s, a, n: n[..., 0], lambda s, a, n: n[..., 0] > limit, num_theta=3)


def step(number: int) -> Transitions:
    state = torch.tensor([[float(number)]])
    action = torch.lerp(LOW, HIGH, torch.tensor([[number / 100, 1 - number / 100]]))
    return Transitions(
        state, action, torch.tensor([-1.0]), state + 1, torch.tensor([False]), torch.zeros(1, dtype=torch.long)
    )


def imagination(**settings: Any) -> MBPO:
    return MBPO(**{"num_rollouts": 30, "rollout_every": 1, **settings})  # type: ignore[arg-type]


def after(learner: DynaStyleLearner, num_steps: int, *, world: World | None) -> None:
    for number in range(num_steps):
        learner.after_step(step(number), world, generator=torch.Generator().manual_seed(number))


@pytest.mark.parametrize(
    ("start", "end", "first", "last"), [(20, 100, 1, 15), (0, 7, 3, 3), (150, 400, 5, 2), (5, 6, 1, 25)]
)
def test_the_schedule_is_linear_and_rounded_down(start: int, end: int, first: int, last: int) -> None:
    """⌊min(max(x + (t − a) / (b − a) · (y − x), x), y)⌋, in whole numbers."""
    settings = imagination(
        rollout_length=first, final_rollout_length=last, lengthening_from=start, lengthening_until=end
    )
    for t in range(2 * end):
        exact = first + (min(max(t, start), end) - start) * (last - first) / (end - start)
        low, high = min(first, last), max(first, last)
        assert settings.length(t) == math.floor(min(max(exact, low), high) + 1e-9)
    assert (settings.length(0), settings.length(end)) == (first, last)
    assert dataclasses.replace(settings, final_rollout_length=None).length(end) == first


@pytest.mark.parametrize("first_action", ["policy", "buffer", "random"])
def test_rollouts_branch_off_from_the_replay(first_action: Any) -> None:
    nobody = Nobody()
    learner = recipe(nobody, imagination(rollout_length=2, first_action=first_action))
    after(learner, 10, world=world())
    rows = learner.imagined.tensors()
    assert len(learner.imagined) == 10 * 30 * 2
    began = rows["state"][:, 0] < 100
    assert int(began.sum()) == 10 * 30
    assert set(rows["state"][began, 0].tolist()) == set(map(float, range(10)))
    assert torch.equal(rows["next_state"], rows["state"] + 100)
    assert torch.equal(rows["reward"], rows["next_state"][:, 0])
    with torch.no_grad():
        by_policy = (rows["action"] - nobody.policy.mode(rows["state"])).abs().amax(1) < 1e-6
    by_buffer = (rows["action"] - torch.cat([step(int(s)).action for s in rows["state"][:, 0] % 100])).abs().amax(
        1
    ) == 0
    assert bool(by_policy[~began].all())
    assert bool(((rows["action"] >= LOW) & (rows["action"] <= HIGH)).all())
    assert bool(by_policy[began].all()) == (first_action == "policy")
    assert bool(by_buffer[began].all()) == (first_action == "buffer")
    if first_action == "random":
        share = (rows["action"][began] - LOW) / (HIGH - LOW)
        assert bool(((share.mean(0) - 0.5).abs() < 5 / (12 * 300) ** 0.5).all())


def test_terminations_are_those_of_the_world_and_of_nothing_else() -> None:
    """The real steps were truncated at most; what is imagined beyond the limit ends there, and goes no further."""
    learner = recipe(Nobody(), imagination(rollout_length=3))
    after(learner, 5, world=world(limit=150.0))
    rows = learner.imagined.tensors()
    assert torch.equal(rows["terminated"], rows["next_state"][:, 0] > 150)
    assert float(rows["state"].max()) < 150
    assert not learner.real.tensors()["terminated"].any()


@pytest.mark.parametrize(("ratio", "num_real"), [(0.0, 0), (0.05, 1), (0.5, 10), (1.0, 20)])
def test_updates_are_shown_their_share_of_real_transitions(ratio: float, num_real: int) -> None:
    nobody = Nobody()
    after(recipe(nobody, imagination(real_ratio=ratio)), 4, world=world())
    assert len(nobody.seen) == 4 * 3
    for batch in nobody.seen:
        assert int((batch.reward == -1).sum()) == num_real
        assert len(batch.reward) == 20


def test_without_a_world_or_an_imagination_all_is_real() -> None:
    for settings, there in ((imagination(), None), (None, world()), (None, None)):
        nobody = Nobody()
        learner = recipe(nobody, settings)
        after(learner, 4, world=there)
        assert all(bool((batch.reward == -1).all()) for batch in nobody.seen)
        assert len(learner.imagined) == 0


def test_rollouts_start_every_so_many_steps_of_the_whole_run() -> None:
    learner = recipe(Nobody(), imagination(rollout_every=4, rollout_length=1))
    learner.remember(Transitions.concatenate([step(number) for number in range(2)]))
    after(learner, 1, world=world())
    assert len(learner.imagined) == 0
    after(learner, 1, world=world())  # the fourth step
    assert len(learner.imagined) == 30
    after(learner, 3, world=world())
    assert len(learner.imagined) == 30


def test_rollouts_grow_by_the_schedule_with_the_steps_of_the_whole_run() -> None:
    """Also where few real transitions are kept: it is steps that count."""
    settings = imagination(rollout_length=1, final_rollout_length=6, lengthening_from=2, lengthening_until=12)
    learner = recipe(Nobody(), dataclasses.replace(settings, rollout_every=2), capacity=3)
    learner.remember(Transitions.concatenate([step(number) for number in range(3)]))
    made = []
    for number in range(3, 15):
        before = len(learner.imagined)
        learner.after_step(step(number), world(), generator=torch.Generator().manual_seed(number))
        made.append((len(learner.imagined) - before) // 30)
        assert learner.report()["rollout_length"] == settings.length(number + 1)
    assert len(learner.real) == 3
    assert made == [2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 6, 0]  # after steps 4, 6, 8, 10, 12 and 14


def test_the_newest_imagined_transitions_push_out_the_oldest() -> None:
    learner = recipe(Nobody(), imagination(rollout_length=2, imagined_capacity=60))
    after(learner, 8, world=world())
    one = learner.imagined.tensors()
    assert len(learner.imagined) == 60
    other = recipe(Nobody(), imagination(rollout_length=2, imagined_capacity=60))
    other.load(learner.tensors())
    assert all(torch.equal(value, other.imagined.tensors()[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["mbpo", "mba"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rollout_length=0", r"algorithm.rollout_length .*greater than 0"),
        ("final_rollout_length=0", r"algorithm.final_rollout_length .*greater than 0"),
        ("real_ratio=1.5", r"algorithm.real_ratio .*less than or equal to 1"),
        ("real_ratio=-0.1", r"algorithm.real_ratio .*greater than or equal to 0"),
        ("lengthening_from=1000", r"need lengthening_from < lengthening_until, got 1000 and 1000"),
        ("first_action=greedy", r"algorithm.first_action .*'policy', 'buffer' or 'random'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(name: str, setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configure(DRIFT, f"algorithm={name}", f"algorithm.{setting}")


@pytest.mark.parametrize("name", ["mbpo", "mve", "mba", "sac"])
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("toy_environments:Choices-v0", "needs continuous actions, .* choices out of 5: take algorithm=mpc"),
        ("toy_environments:ManyChoices-v0", "choices out of 3 and out of 2"),
    ],
)
def test_choices_are_refused(name: str, env: str, message: str) -> None:
    with Environment(env) as environment, pytest.raises(UserError, match=message):
        Builder(configure(env, f"algorithm={name}"), environment)


@pytest.mark.parametrize("name", ["mbpo", "mve", "mba"])
def test_a_propagation_of_many_particles_is_refused(name: str) -> None:
    with Environment(DRIFT) as environment, pytest.raises(UserError, match=r"ts-infinity or ts-1, got moment-matching"):
        Builder(configure(DRIFT, f"algorithm={name}", "propagation=moment-matching"), environment)


_QUICK: dict[str, Any] = {
    "updates_per_step": 15, "batch_size": 64, "hidden": (32, 32), "learning_rate": 3e-3, "discount": 0.5,
    "target_rate": 0.05,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [MBPO(**_QUICK, real_ratio=0.0), MVE(**_QUICK, horizon=2), MBA(**_QUICK, real_ratio=0.0)],
    ids=lambda settings: type(settings).__name__,
)
def test_each_finds_the_best_action_in_a_known_world(settings: DynaStyle, generator: torch.Generator) -> None:
    """s' = s + a, r = −5 s'²: the best action is −s. MBPO and MBA learn from imagined transitions alone."""
    dynamics = KnownDynamics(lambda s, a: s + a, noise_std=torch.zeros(1))
    there = World(Nothing(), dynamics, lambda s, a, n: -5 * n[..., 0].square(), None, num_theta=2)
    task = Task("Line", 1, torch.tensor([-1.0]), torch.tensor([1.0]))
    learner = settings.learner(task, generator=generator)
    for _ in range(30):
        state = 2 * torch.rand(1, 1, generator=generator) - 1
        action = 2 * torch.rand(1, 1, generator=generator) - 1
        following = state + action
        reward = -5 * following[:, 0].square()
        row = Transitions(state, action, reward, following, torch.tensor([False]), torch.zeros(1, dtype=torch.long))
        learner.after_step(row, there, generator=generator)
    states = torch.linspace(-0.8, 0.8, 33)[:, None]
    agent = learner.agent(explore=False)
    actions = torch.stack([agent.act(state, None, generator=generator)[0] for state in states])
    assert float((actions + states).abs().mean()) < 0.17  # 0.41 if it never acts


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("name", ["mbpo", "mba"])
def test_what_a_run_imagines_ends_where_episodes_end(name: str, tmp_path: pathlib.Path) -> None:
    """With another θ in each step, and rollouts that grow; what ended is not gone on with."""
    settings = (
        f"algorithm={name}", "algorithm.hidden=[8]", "algorithm.batch_size=8", "algorithm.updates_per_step=1",
        "algorithm.num_rollouts=50", "algorithm.rollout_every=5", "algorithm.refit_every=20",
        "algorithm.final_rollout_length=20", "algorithm.lengthening_until=400", "propagation=ts-1",
        "num_base_steps=30", "num_episodes=20", "num_steps=60", "posterior.num_steps=100",
    )  # fmt: skip
    state = start(tmp_path / "run", "ContinuousCartPole-v0", *settings)
    rows = Batch(**{field: state.learned[f"imagined/{field}"] for field in Batch._fields})
    assert state.metrics[-1]["num_imagined"] == len(rows.reward) > 300
    assert 3 < state.metrics[-1]["rollout_length"] < 20
    ends = continuous_cartpole_termination(rows.state, rows.action, rows.next_state)
    assert torch.equal(rows.terminated, ends)
    assert 0 < int(ends.sum()) < len(ends)
    nowhere = torch.zeros_like(rows.state)
    assert not continuous_cartpole_termination(nowhere, rows.action, rows.state).any()


def test_both_instances_have_the_settings_of_the_recipe() -> None:
    fields = {field.name for field in dataclasses.fields(Imagining)}
    for kind in (MBPO, MBA):
        assert fields <= {field.name for field in dataclasses.fields(kind)}
        assert kind().imagination() == kind()
