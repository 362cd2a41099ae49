"""docs/own_methods.md is true: its modules are run by its commands and by its program, and mistakes are told."""

import pathlib
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import typer.testing
from toy_runs import overrides, saved

from bayes_mbrl import cli
from bayes_mbrl.config import resolve
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.planners.base import search

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "own_methods.md").read_text(encoding="utf-8")
SWAG, CLIMB, MEDIAN, PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MODULES = {"my_swag": SWAG, "my_climb": CLIMB, "my_median": MEDIAN}
CHEAP = ("num_episodes=2", "num_evaluation_episodes=0", "posterior.num_steps=20", "planner.num_candidates=8",
         "planner.horizon=3", "planner.num_iterations=1")  # fmt: skip


@pytest.fixture(autouse=True)
def _modules(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules of the page, in the working folder."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def _do(*arguments: str) -> None:
    done = typer.testing.CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == 0, done.output


def _commands(pattern: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(rf"^bayes-mbrl ({pattern}.*)$", PAGE, re.MULTILINE)]


@pytest.mark.slow
def test_the_commands_run(tmp_path: pathlib.Path) -> None:
    swag, climb, median = _commands("run")
    _do(*swag, *CHEAP, "planner.num_elites=2")
    posterior = saved(tmp_path / "runs" / "swag").posterior
    assert type(posterior).__module__ == "my_swag"
    evaluate, report = _commands("(?:evaluate|report)")
    _do(*evaluate)
    _do(*report)
    _do("resume", "runs/swag", "--episodes", "3")
    assert len(saved(tmp_path / "runs" / "swag").metrics) == 3
    _do(*climb, *CHEAP)
    _do(*median, *CHEAP, "planner.num_elites=2")


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    cheap = ", ".join(f'"{setting}"' for setting in CHEAP)
    exec(PROGRAM.replace('"num_episodes=3"', cheap), {})
    assert capsys.readouterr().out.startswith("SWAGPosterior(")


def test_the_posterior_fits_and_knows_less_away_from_the_data() -> None:
    import my_swag  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 1, generator=generator) * 2 - 1
    y = torch.sin(2 * x) + 0.05 * torch.randn(200, 1, generator=generator)
    model = BayesianNetwork(input_dim=1, output_dim=1, hidden=(30,), noise="homoscedastic")
    posterior, info = my_swag.fit(model, x, y, generator=generator, num_steps=600)
    assert info.final_loss < float(info.losses[0])
    theta = posterior.sample(50, generator=generator)
    mean, _ = model.predict(theta, torch.tensor([[0.5], [6.0]]))
    assert float(mean[:, 0].mean()) == pytest.approx(0.84, abs=0.1)
    assert float(mean[:, 1].std()) > 2 * float(mean[:, 0].std())
    again = type(posterior).from_tensors(posterior.tensors())
    one, other = (p.sample(3, generator=torch.Generator().manual_seed(1)) for p in (posterior, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_planner_climbs_within_bounds() -> None:
    import my_climb  # type: ignore[import-not-found]

    low, high, best = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0]), torch.tensor([0.3, 7.0])
    planner = my_climb.HillClimbing(low, high, horizon=2, num_candidates=200, num_iterations=8, decay=0.7)

    def score(plans: torch.Tensor) -> torch.Tensor:
        assert bool(((plans >= low) & (plans <= high)).all())
        return -(plans - best).square().sum((1, 2))

    state = search(planner, planner.init(), score, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(state.plan, torch.tensor([[0.3, 5.0]]).expand(2, 2), atol=0.15)
    assert torch.equal(planner.shift(state).plan[0], state.plan[1])


def test_the_objective_is_the_median() -> None:
    import my_median  # type: ignore[import-not-found]

    returns = torch.tensor([1.0, 9.0, 2.0, 50.0, 3.0]).reshape(5, 1, 1).expand(5, 3, 2)
    assert my_median.median()(returns).tolist() == [3.0, 3.0]


def test_settings_are_those_of_the_signature() -> None:
    config = resolve(overrides("planner=my_climb:CLIMB", "planner.radius=0.25", "posterior=my_swag:SWAG"))
    assert config.planner.settings["radius"] == 0.25
    assert config.dynamics.settings["hidden"] == (4,)
    assert resolve(["posterior=my_swag:SWAG"]).dynamics.settings["hidden"] == (50, 50)


MISTAKES: dict[str, tuple[str, str]] = {
    "a setting out of bounds": ("planner=my_climb:CLIMB planner.decay=2", "planner.decay should be less than 1, got 2"),
    "an unknown setting": ("planner=my_climb:CLIMB planner.radious=1", "did you mean planner.radius?"),
    "no such module": ("planner=my_clim:CLIMB", "planner: cannot find 'my_clim:CLIMB'"),
    "no such attribute": ("posterior=my_swag:SWAGG", "posterior: cannot find 'my_swag:SWAGG'"),
    "no row": ("posterior=my_swag:fit", "should be a bayes_mbrl.registry.Row, got <function fit"),
    "no classes to load": ("posterior=my_rows:BARE", "its Row has no posteriors"),
    "a target that is not there": ("planner=my_rows:WRONG", "has no attribute 'Climb2'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_a_run(mistake: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 'BARE = Row("bare", "my_swag:fit")\nWRONG = Row("wrong", "my_climb:Climb2")\n'
    (tmp_path / "my_rows.py").write_text(f"from bayes_mbrl.registry import Row\n\n{rows}")
    monkeypatch.delitem(sys.modules, "my_rows", raising=False)
    given, told = MISTAKES[mistake]
    with pytest.raises(UserError, match=re.escape(told)):
        resolve(given.split())


def test_settings_of_another_planner_in_a_file_are_left_out(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.yaml").write_text("planner: {name: 'my_climb:CLIMB', radius: 0.25}\n")
    chosen: dict[str, Any] = {"planner": "cem"}
    assert resolve(file=tmp_path / "mine.yaml").planner.settings["radius"] == 0.25
    assert resolve(file=tmp_path / "mine.yaml", options=chosen).planner.name == "cem"
