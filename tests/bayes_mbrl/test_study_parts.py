"""What several studies are made of, against known answers."""

import pathlib

import pytest
import torch

from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import three_lanes_step
from bayes_mbrl.experiment import evaluate_run, run_experiment
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder
from bayes_mbrl.study_parts import episodes, knowing, learned, learning_curve, mean_return, step_error, true_dynamics


def rows() -> Transitions:
    """Of episodes 0, 7 and 7, with rewards 1, 2 and 6."""
    states = torch.tensor([[0.0, 0.5], [1.0, -0.1], [2.0, 0.3]])
    rewards, ended = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, dtype=torch.bool)
    return Transitions(states, states, rewards, states + 9.0, ended, torch.tensor([0, 7, 7]))


def test_the_error_is_that_of_the_mean_in_units_of_the_scale() -> None:
    truth = true_dynamics("ThreeLanes-v0", 2)
    off = KnownDynamics(lambda s, a: three_lanes_step(s, a) + torch.tensor([0.3, 0.0]), noise_std=torch.ones(2))
    scale = torch.tensor([0.1, 7.0])
    assert step_error(Nothing(), truth, truth, rows(), scale) == 0, "whatever the real next state was: that is noise"
    assert step_error(Nothing(), off, truth, rows(), scale) == pytest.approx(3 / 2**0.5, rel=1e-5)


def test_returns_are_means_over_episodes() -> None:
    assert mean_return(rows()) == 4.5


def test_who_knows_the_truth_plans_by_it_alone_and_episodes_are_the_same_each_time() -> None:
    config = resolve(
        ["posterior=point", "posterior.num_steps=10", "planner.num_candidates=30", "planner.num_elites=5"],
        options={"env": "ThreeLanes-v0", "seed": 3},
    )
    with Environment(config.env) as environment:
        builder = Builder(config, environment)
        data = episodes(builder, builder.base_policy(), 3, seed=3)
        assert data.episode.unique().tolist() == [0, 1, 2]
        truth = true_dynamics("ThreeLanes-v0", 2)
        agents = [builder.agent(some, learned(builder, some, seed=3)[0]) for some in (data, data[:20])]
        played = [episodes(builder, agent, 2, seed=3, first=3) for agent in agents]
        informed = [episodes(builder, knowing(agent, truth), 2, seed=3, first=3) for agent in agents]
    assert torch.equal(informed[0].state, informed[1].state), "whatever was learned"
    assert not torch.equal(played[0].state, played[1].state)
    assert torch.equal(played[0].state[0], informed[0].state[0]), "from the same start"
    assert not torch.equal(data.state[0], played[0].state[0])
    assert mean_return(informed[0]) > mean_return(data)


def test_a_learning_curve_is_of_the_policy_of_the_time(tmp_path: pathlib.Path) -> None:
    """As those of shorter runs; evaluating changes nothing in the run."""
    overrides = ["algorithm.hidden=[8]", "algorithm.batch_size=8", "num_base_steps=10"]

    def config(num_episodes: int) -> Config:
        options = {"env": "LinearGaussian-v0", "algorithm": "sac", "num_episodes": num_episodes, "seed": 3}
        return resolve(overrides, options=options)

    (tmp_path / "run" / "checkpoint").mkdir(parents=True)  # as a killed process may leave it
    steps, returns = learning_curve(tmp_path, config(3), every=100, num_episodes=2)
    assert steps == [100, 150]
    assert list(tmp_path.iterdir()) == []
    for num_steps, value in zip(steps, returns, strict=True):
        alone = new_run_folder(tmp_path / str(num_steps), config(num_steps // 50))
        run_experiment(config(num_steps // 50), alone, observer=Silent())
        assert value == sum(evaluate_run(alone, num_episodes=2, seed=None, observer=Silent())) / 2
    assert returns[0] != returns[1]
