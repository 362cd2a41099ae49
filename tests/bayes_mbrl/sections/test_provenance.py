"""All that a run was made with is told, and of several what sets them apart."""

import pathlib

import pytest
from toy_runs import configure

from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.run_folder import new_run_folder
from bayes_mbrl.sections import overview, provenance


def run(folder: pathlib.Path, *settings: str, env: str = "Pendulum-v1", missing: tuple[str, ...] = ()) -> LoadedRun:
    config = configure(env, *settings)
    new_run_folder(folder, config, command=f"bayes-mbrl run --env {env}")
    return LoadedRun(folder, config, None, [{"episode": 0}], None, None, None, {}, {}, missing)


def test_one_run_shows_all_settings_versions_and_its_command(tmp_path: pathlib.Path) -> None:
    section = provenance.section([run(tmp_path / "a", "planner.horizon=3")])
    settings, versions = (dict(table.rows) for table in section.tables)  # type: ignore[arg-type]
    assert settings["planner.horizon"] == "3"
    assert settings["dynamics.hidden"] == "[4]"
    assert settings["num_steps"] == "none"
    assert {"python", "torch", "bayes_mbrl"} <= versions.keys()
    assert section.text == ["Command: bayes-mbrl run --env Pendulum-v1"]


def test_several_runs_show_their_differences_first(tmp_path: pathlib.Path) -> None:
    runs = [
        run(tmp_path / "a", "seed=1"),
        run(tmp_path / "b", "seed=2", "posterior=ensemble", env="LinearGaussian-v0"),
    ]
    section = provenance.section(runs)
    differ = {row[0]: row[1:] for row in section.tables[0].rows}
    assert section.tables[0].columns == ("setting", "a", "b")
    assert differ["seed"] == ("1", "2")
    assert differ["env"] == ("Pendulum-v1", "LinearGaussian-v0")
    assert differ["posterior.num_members"][0] == provenance.ABSENT
    assert "num_episodes" not in differ
    same = next(dict(table.rows) for table in section.tables if table.title == "The same in all runs")  # type: ignore[arg-type]
    assert same["num_episodes"] == "3"
    assert not differ.keys() & same.keys()
    assert any("2 environments" in text for text in section.text)


def test_a_configuration_that_is_gone_is_named(tmp_path: pathlib.Path) -> None:
    gone = run(tmp_path / "a")
    (tmp_path / "a" / "config.yaml").unlink()
    section = provenance.section([gone])
    assert len(section.missing) == 1
    assert section.missing[0].startswith("the command and versions of a:")
    assert dict(section.tables[0].rows)["env"] == "Pendulum-v1"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [(["x/a", "x/b"], ["a", "b"]), (["x/a", "y/a"], ["x/a", "y/a"]), (["x/y/a", "z/y/a"], ["y/a (1)", "y/a (2)"])],
)
def test_names_tell_runs_apart(folders: list[str], expected: list[str], tmp_path: pathlib.Path) -> None:
    for folder in folders:
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    assert provenance.run_names([run(tmp_path / folder) for folder in folders]) == expected


def test_the_overview_has_a_column_for_each_run_and_all_that_is_missing(tmp_path: pathlib.Path) -> None:
    runs = [run(tmp_path / "a", missing=("x is not there",)), run(tmp_path / "b", "num_episodes=1")]
    section = overview.section(runs)
    facts = {row[0]: row[1:] for row in section.tables[0].rows}
    assert facts["training episodes"] == ("1 of 3", "1 of 1")
    assert section.missing == ["a: x is not there"]
    assert section.text == ["a: it has not ended; what there is so far is shown."]
    assert overview.section(runs[:1]).missing == ["x is not there"]
