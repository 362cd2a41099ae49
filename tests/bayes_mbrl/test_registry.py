import re
import subprocess
import sys

import pytest

from bayes_mbrl.config import from_mapping, resolve, settings_model
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.registry import POSTERIORS, SECTIONS, load_attribute, posterior_kinds

ROWS = [(section, name) for section, table in SECTIONS.items() for name in table.rows]


@pytest.mark.parametrize(("section", "name"), ROWS)
def test_every_row_is_there_and_its_settings_can_be_read(section: str, name: str) -> None:
    row = SECTIONS[section].rows[name]
    assert callable(row.load())
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert "\n" not in row.summary
    assert 20 <= len(row.summary) <= 120
    settings_model(section, name)


@pytest.mark.parametrize(("section", "name"), ROWS)
def test_every_row_runs_with_its_defaults_and_is_recorded(section: str, name: str) -> None:
    row = SECTIONS[section].rows[name]
    config = from_mapping({section: name, **row.requires, "rollout": dict(row.at_least)})
    assert getattr(config, section).name == name
    assert from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize("section", SECTIONS)
def test_the_default_is_one_of_the_rows(section: str) -> None:
    assert SECTIONS[section].default in SECTIONS[section].rows


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_has_a_valid_configuration(name: str) -> None:
    assert from_mapping({"env": name}).env == name


@pytest.mark.parametrize("name", POSTERIORS.rows)
def test_every_posterior_can_be_loaded_by_its_kind(name: str) -> None:
    kinds = posterior_kinds(name)
    assert kinds
    for kind, posterior in kinds.items():
        assert issubclass(posterior, Posterior)
        assert posterior.kind == kind


def test_no_kind_belongs_to_two_classes() -> None:
    seen: dict[str, type] = {}
    for name in POSTERIORS.rows:
        for kind, posterior in posterior_kinds(name).items():
            assert seen.setdefault(kind, posterior) is posterior


def test_reading_the_registry_loads_no_framework() -> None:
    code = "import sys, bayes_mbrl.registry; print({'torch', 'pyro', 'gymnasium', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_missing_module_of_ours_is_a_fault_and_no_users_mistake() -> None:
    with pytest.raises(ModuleNotFoundError):
        load_attribute("bayes_mbrl.no_such_module:fit")


def test_a_plan_cannot_be_followed_beyond_its_horizon() -> None:
    with pytest.raises(UserError, match=r"need algorithm.replan_every <= planner.horizon, got 9 and 8"):
        resolve(["algorithm.replan_every=9", "planner.horizon=8"])


@pytest.mark.parametrize("choice", ["objective=mean-minus-epistemic-std", "propagation=distribution-sampling"])
def test_what_needs_several_noise_draws_gets_them(choice: str) -> None:
    assert resolve([choice]).rollout.num_noise == 2
    assert resolve([]).rollout.num_noise == 1


def test_a_wrong_type_does_not_hide_an_impossible_value_beside_it() -> None:
    with pytest.raises(UserError) as caught:
        resolve(["planner.horizon=0", "planner.num_elites=1.5"])
    assert len(str(caught.value).splitlines()) == 2
    assert "need horizon >= 1, got 0" in str(caught.value)


def test_physics_is_learned_without_tempering_and_by_longer_steps() -> None:
    """A row may recommend settings of a section before its own; what a person writes still wins."""
    posterior = resolve(["dynamics=physics", "posterior.num_particles=7"]).posterior
    kept = {name: posterior.settings[name] for name in ("kl_weight", "learning_rate", "num_particles")}
    assert (posterior.name, kept) == ("mean-field", {"kl_weight": 1.0, "learning_rate": 0.1, "num_particles": 7})
    assert resolve([]).posterior.settings["kl_weight"] == 0.3
    assert resolve(["dynamics=physics"]).dynamics.settings["system"] == "pendulum"
    with pytest.raises(UserError, match=r"dynamics physics: no system is known .*: write dynamics.system="):
        resolve(["dynamics=physics", "env=LinearGaussian-v0"])
