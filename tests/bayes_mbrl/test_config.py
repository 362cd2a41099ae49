"""Sources, checks and records of a configuration, on tables of its own: what others register changes nothing here."""

import pathlib
import pickle
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt, Le

from bayes_mbrl import config
from bayes_mbrl.config import Component, from_mapping, load, record, resolve
from bayes_mbrl.environments import registration
from bayes_mbrl.errors import UserError
from bayes_mbrl.registry import SECTIONS, Row, Table


def _mpc(dynamics: object, *, refit_every: Annotated[int, Gt(0)] | None = None) -> tuple[object, int | None]:
    return dynamics, refit_every


def _broad(
    model: object,
    *,
    num_steps: Annotated[int, Gt(0)] = 100,
    rate: Annotated[float, Gt(0), Le(1)] = 0.5,
    gradient: Literal["local", "global"] = "local",
    shuffle: bool = True,
) -> dict[str, object]:
    return {"model": model, "num_steps": num_steps, "rate": rate, "gradient": gradient, "shuffle": shuffle}


def _narrow(model: object, *, num_members: int = 5, rate: float = 0.1) -> None: ...


def _net(*, hidden: Sequence[Annotated[int, Gt(0)]] = (50, 50), name_of_noise: str = "fixed") -> None: ...


def _line() -> None: ...


class _Search:
    def __init__(self, low: float, *, horizon: int = 25, num_elites: int = 40, num_candidates: int = 400) -> None:
        if not 1 <= num_elites <= num_candidates:
            raise ValueError(f"need 1 <= num_elites <= num_candidates, got {num_elites} and {num_candidates}")


def _shoot(low: float, *, horizon: int = 25) -> None: ...


def _averse(risk_aversion: float) -> None:
    if risk_aversion < 0:
        raise ValueError(f"need risk_aversion >= 0, got {risk_aversion}")


def _unrelated(states: object, noise: object) -> None: ...


def _here(function: object) -> str:
    return f"{__name__}:{function.__name__}"  # type: ignore[attr-defined]


_TABLES = {
    "algorithm": Table("mpc", {"mpc": Row("", _here(_mpc))}, runtime=frozenset({"dynamics"})),
    "posterior": Table(
        "broad",
        {
            "broad": Row("", _here(_broad)),
            "narrow": Row("", _here(_narrow), defaults={"dynamics": {"hidden": [7]}, "rollout": {"num_theta": 3}}),
            "needy": Row("", _here(_narrow), defaults={"dynamics": "line"}, requires={"dynamics": "line"}),
            "absent": Row("", "no_such_package_here:fit"),
        },
        runtime=frozenset({"model"}),
    ),
    "dynamics": Table("net", {"net": Row("", _here(_net)), "line": Row("", _here(_line))}),
    "planner": Table(
        "search",
        {"search": Row("", _here(_Search)), "shoot": Row("", _here(_shoot))},
        runtime=frozenset({"low"}),
        trial=lambda: {"low": 0.0},
    ),
    "objective": Table(
        "mean",
        {"mean": Row("", _here(_line)), "averse": Row("", _here(_averse), settings={"risk_aversion": 1.5}),
         "bare": Row("", _here(_averse))},
        trial=dict,
    ),
    "propagation": Table(
        "plain",
        {"plain": Row("", _here(_unrelated)), "sampling": Row("", _here(_unrelated), at_least={"num_noise": 2})},
        has_settings=False,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for section, table in _TABLES.items():
        monkeypatch.setitem(SECTIONS, section, table)  # type: ignore[arg-type]
    config.settings_model.cache_clear()
    yield
    config.settings_model.cache_clear()


def _recommend(monkeypatch: pytest.MonkeyPatch, **defaults: Any) -> None:
    monkeypatch.setattr(registration, "find_spec", lambda name: SimpleNamespace(defaults=defaults))


def _lines(*overrides: str, **options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        resolve(overrides, options=options)
    return str(caught.value).splitlines()


def test_the_defaults_are_those_of_the_signatures() -> None:
    made = resolve()
    assert made.planner == Component("planner", "search", {"horizon": 25, "num_elites": 40, "num_candidates": 400})
    assert made.posterior.settings == {"num_steps": 100, "rate": 0.5, "gradient": "local", "shuffle": True}
    assert made.algorithm.settings == {"refit_every": None}
    assert made.propagation.settings == {}
    assert (made.env, made.seed) == ("Pendulum-v1", 0)
    assert made == from_mapping({})


def test_a_component_is_built_from_its_settings_and_what_is_known_at_run_time() -> None:
    made = resolve(["posterior.num_steps=7", "algorithm.refit_every=10"])
    assert made.posterior.build("the model") == {
        "model": "the model", "num_steps": 7, "rate": 0.5, "gradient": "local", "shuffle": True,
    }  # fmt: skip
    assert made.algorithm.build(dynamics="the dynamics") == ("the dynamics", 10)


def test_later_sources_win(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _recommend(
        monkeypatch,
        planner={"horizon": 11, "num_elites": 12, "num_candidates": 90},
        rollout={"num_theta": 4},
        num_episodes=9,
    )
    file = tmp_path / "run.yaml"
    file.write_text("posterior: narrow\nplanner:\n  num_elites: 13\n  num_candidates: 80\nrollout: {num_noise: 2}\n")
    made = resolve(["planner.num_candidates=70"], file=file)
    assert made.planner.settings == {"horizon": 11, "num_elites": 13, "num_candidates": 70}
    assert made.dynamics.settings["hidden"] == (7,)  # recommended by the posterior
    assert (made.rollout.num_theta, made.rollout.num_noise) == (4, 2)  # the environment is stronger than the posterior
    assert made.num_episodes == 9
    assert resolve(["dynamics.hidden=[1]"], file=file).dynamics.settings["hidden"] == (1,)


def test_recommendations_for_another_component_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _recommend(monkeypatch, planner={"horizon": 11, "num_elites": 12})
    assert resolve(["planner=shoot"]).planner.settings == {"horizon": 11}
    _recommend(monkeypatch, planner={"name": "search", "horizon": 11}, posterior={"name": "narrow", "rate": 0.9})
    assert resolve().planner.settings["horizon"] == 11
    assert resolve().posterior == Component("posterior", "narrow", {"num_members": 5, "rate": 0.9})
    assert resolve(["planner=shoot"]).planner.settings == {"horizon": 25}
    assert resolve(["posterior=broad"]).posterior.settings["rate"] == 0.5


def test_what_a_file_says_about_another_component_is_left_out(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("planner: {name: search, num_elites: 3, horizon: 9}\n")
    assert resolve(["planner=shoot"], file=file).planner == Component("planner", "shoot", {"horizon": 25})


@pytest.mark.parametrize("overrides", [["planner=shoot"], ["planner.name=shoot"], ["planner={name: shoot}"]])
def test_a_name_can_be_given_in_three_ways(overrides: list[str]) -> None:
    made = resolve([*overrides, "planner.horizon=9"], options={"planner": "shoot", "seed": None})
    assert made.planner == Component("planner", "shoot", {"horizon": 9})


def test_a_setting_without_default_needs_a_value_from_somewhere() -> None:
    assert resolve(["objective=averse"]).objective.settings == {"risk_aversion": 1.5}
    assert resolve(["objective=bare", "objective.risk_aversion=2"]).objective.settings == {"risk_aversion": 2.0}
    assert _lines("objective=bare") == ["objective.risk_aversion has no default: write objective.risk_aversion=..."]


def test_all_mistakes_come_at_once(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 007\nplaner: search\nposterior:\n  num_steps: 0\n  rate: 2\n")
    with pytest.raises(UserError) as caught:
        resolve(["planner.horizn=3", "planner.num_elites=500", "env=Pendulum-v7", "objective=meen", "typo"], file=file)
    lines = str(caught.value).splitlines()
    for expected in (
        f"{file}, line 1: 007 has leading zeros",
        "unknown key planer; did you mean planner?",
        "posterior.num_steps should be greater than 0, got 0",
        "posterior.rate should be less than or equal to 1, got 2",
        "unknown key planner.horizn; did you mean planner.horizon?",
        "planner search: need 1 <= num_elites <= num_candidates, got 500",
        "unknown environment 'Pendulum-v7'",
        "unknown objective 'meen'; did you mean mean? known: mean, averse, bare",
        "cannot read 'typo': write key=value, such as planner.horizon=25",
    ):
        assert len([line for line in lines if line.startswith(expected)]) == 1, (expected, lines)
    assert len(lines) == 9


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("planner.horizon=2.0", "planner.horizon should be an integer, got 2.0"),
        ("planner.horizon=true", "planner.horizon should be an integer, got true"),
        ("planner.horizon='5'", 'planner.horizon should be an integer, got "5"'),
        ("planner.horizon=null", "planner.horizon should be an integer, got null"),
        ("planner.horizon=[1]", "planner.horizon should be an integer, got [1]"),
        ("posterior.rate=true", "posterior.rate should be a number, got true"),
        ("posterior.rate=fast", 'posterior.rate should be a number, got "fast"'),
        ("posterior.shuffle=1", "posterior.shuffle should be a boolean, got 1"),
        ("posterior.gradient=glob", "posterior.gradient should be 'local' or 'global', got \"glob\""),
        ("dynamics.hidden=5", "dynamics.hidden should be a list such as [50, 50], got 5"),
        ("dynamics.hidden=50x50", 'dynamics.hidden should be a list such as [50, 50], got "50x50"'),
        ("dynamics.hidden=[5, a]", 'dynamics.hidden[1] should be an integer, got "a"'),
        ("dynamics.hidden=[5, 0]", "dynamics.hidden[1] should be greater than 0, got 0"),
        ("algorithm.refit_every=0", "algorithm.refit_every should be greater than 0, got 0"),
        ("seed=-1", "seed should be greater than or equal to 0, got -1"),
        ("seed=1.5", "seed should be an integer, got 1.5"),
        ("env=3", "env should be a string, got 3"),
        ("rollout.num_noise=0", "rollout.num_noise should be greater than 0, got 0"),
        ("rollout=3", "rollout should be a mapping such as {num_theta: 20}, got 3"),
        ("planner=3", "planner should be a name (search, shoot) or a mapping, got 3"),
        ("planner.name=3", "planner should be a name (search, shoot), got 3"),
        ("planner.num_elites=401", "planner search: need 1 <= num_elites <= num_candidates, got 401 and 400"),
        ("planner.low=3", "unknown key planner.low; known: planner.horizon, planner.num_elites, planner.num_candidates"),  # noqa: E501
        ("horizon=3", "unknown key horizon; did you mean planner.horizon?"),
        ("planner.num_theta=3", "unknown key planner.num_theta; did you mean rollout.num_theta?"),
        ("planer.horizon=3", "unknown key planer.horizon; did you mean planner.horizon?"),
        ("posterior.num_members=3", "unknown key posterior.num_members: it is a setting of posterior narrow and needy only"),  # noqa: E501
        ("objective.weight=3", "unknown key objective.weight: there are no keys below objective"),
        ("planner.horizon=0x10", "planner.horizon=0x10: 0x10 is in another base: write it in decimals, or '0x10' in quotes for text"),  # noqa: E501
        ("dynamics.hidden=[5", "dynamics.hidden=[5: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("planner.=3", "cannot read 'planner.=3': write key=value, such as planner.horizon=25"),
        ("planner=", "cannot read 'planner=': write key=value, such as planner.horizon=25"),
        ("posterior=absent", "posterior absent: no_such_package_here needs the package no_such_package_here, which is not installed: pip install no_such_package_here"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(override: str, line: str) -> None:
    assert _lines(override) == [line]


def test_an_unknown_name_does_not_hide_other_mistakes() -> None:
    assert _lines("planner=serch", "planner.horizn=1") == [
        "unknown planner 'serch'; did you mean search? known: search, shoot",
        "unknown key planner.horizn; did you mean planner.horizon?",
    ]


def test_contradictions_name_both_sides() -> None:
    assert _lines("planner.name=shoot", planner="search") == [
        "--planner search and planner.name=shoot contradict each other: keep one of them"
    ]
    assert _lines("seed=1", "seed=2") == ["seed=1 and seed=2 contradict each other: keep one of them"]
    assert _lines("seed=true", seed=1)[0] == "--seed 1 and seed=true contradict each other: keep one of them"
    assert resolve(["seed=1", "planner=shoot"], options={"seed": 1, "planner": "shoot"}).seed == 1


def test_what_a_choice_asks_of_the_others() -> None:
    assert resolve(["posterior=needy"]).dynamics.name == "line"
    assert _lines("posterior=needy", "dynamics=net") == [
        "posterior needy needs dynamics line, got net: write dynamics=line"
    ]
    assert _lines("propagation=sampling", "seed=-1") == [
        "propagation sampling needs rollout.num_noise >= 2, got 1",
        "seed should be greater than or equal to 0, got -1",
    ]
    assert resolve(["propagation=sampling", "rollout.num_noise=2"]).rollout.num_noise == 2


def test_a_recorded_configuration_loads_as_the_same(tmp_path: pathlib.Path) -> None:
    made = resolve(["posterior.rate=1e-3", "dynamics.hidden=[]", "planner=shoot", "seed=12", "objective=averse"])
    file = tmp_path / "config.yaml"
    file.write_text(made.to_yaml())
    assert load(file) == made
    file.write_text(record(made, "bayes-mbrl run 'a b'"))
    assert load(file) == made
    assert "\ncommand: bayes-mbrl run 'a b'\nversions:\n" in file.read_text()
    assert load(file) != resolve(["seed=13"], file=file)
    assert from_mapping(made.to_mapping()) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_record_wins_over_recommendations_that_changed_since(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text((made := resolve()).to_yaml())
    _recommend(monkeypatch, planner={"horizon": 3}, posterior="narrow", seed=5)
    assert load(file) == made
    assert resolve() != made


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve().seed = 3  # type: ignore[misc]
