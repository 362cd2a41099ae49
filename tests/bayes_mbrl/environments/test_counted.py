"""Environments whose states are counted: what is recommended for them runs, and is what the registry knows."""

import pytest

from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.counted import COUNTED
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.errors import UserError


def test_those_that_are_asked_for_are_there() -> None:
    assert set(COUNTED) >= {"FrozenLake-v1", "CliffWalking-v1", "DynaMaze-v0", "BlockingMaze-v0"}
    assert any(name.startswith("Taxi-") for name in COUNTED)
    assert not COUNTED.keys() & ENVIRONMENTS.keys()


@pytest.mark.parametrize("name", COUNTED)
def test_each_is_found_and_learned_in_tables_by_default(name: str) -> None:
    spec = find_spec(name)
    assert spec is COUNTED[name] is find_spec(spec.id)
    config = resolve(options={"env": name})
    assert (config.algorithm.name, config.num_base_steps) == ("dyna", 0)
    with Environment(name) as environment:
        assert environment.state_names == ("state",)
        assert f"{environment.num_states} states, {environment.choices[0]} choices" in spec.summary
        limit = environment.max_episode_steps
        assert ("no time limit" if limit is None else f"{limit} steps") in spec.summary
        assert Builder(config, environment).learner() is not None


@pytest.mark.parametrize("name", COUNTED)
def test_what_needs_numbers_is_refused_with_advice(name: str) -> None:
    for algorithm in ("mpc", "sac", "mbpo", "policy-backprop"):
        with Environment(name) as environment, pytest.raises(UserError, match=r"counts its .*: take algorithm=dyna"):
            Builder(resolve([f"env={name}", f"algorithm={algorithm}"]), environment)
