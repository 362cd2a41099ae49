"""`bayes-mbrl report`: which sections, where to, and that damage costs what it must and no more."""

import pathlib
import pkgutil
import runpy
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import start
from typer.testing import CliRunner

from bayes_mbrl import reporting, sections
from bayes_mbrl.analysis.charts import Section
from bayes_mbrl.cli import app
from bayes_mbrl.errors import UserError
from bayes_mbrl.loaded_run import LoadedRun, open_run
from bayes_mbrl.reporting import SECTIONS, Row, write_report

CHEAP = tuple(row for row in SECTIONS if row.joint)


def cheap(monkeypatch: pytest.MonkeyPatch, *more: Row) -> None:
    monkeypatch.setattr(reporting, "SECTIONS", CHEAP[:-1] + more + CHEAP[-1:])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    start(folder, "LinearGaussian-v0", "num_episodes=2", "num_evaluation_episodes=1")
    return folder


@pytest.fixture
def run(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def report(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_every_section_is_in_the_table_once() -> None:
    modules = [Row(info.name, "") for info in pkgutil.iter_modules(sections.__path__)]
    written = {row.module for row in modules if _has_section(row)}
    listed = [row.module for row in SECTIONS]
    assert sorted(listed) == sorted(written)
    assert len({row.title for row in SECTIONS}) == len(SECTIONS)


def _has_section(row: Row) -> bool:
    try:
        return callable(row.load())
    except AttributeError:  # a module that sections share
        return False


def test_the_whole_report_of_a_run(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    warnings: list[str] = []
    before = torch.get_rng_state()
    path = write_report([finished], out=tmp_path / "a.html", warn=warnings.append)
    assert warnings == []
    assert torch.equal(before, torch.get_rng_state())
    page = path.read_text(encoding="utf-8")
    for row in SECTIONS:
        assert (f"<h2>{row.title}</h2>" in page) == (row.needs != "learner")
    assert "failed with" not in page
    assert len(page.encode()) < 8_000_000
    write_report([finished], out=tmp_path / "b.html", warn=warnings.append)
    assert (tmp_path / "b.html").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


SAC = ("algorithm=sac", "algorithm.hidden=[4]", "algorithm.batch_size=4", "num_base_steps=1")


@pytest.fixture(scope="module")
def model_free(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "free"
    start(folder, "LinearGaussian-v0", *SAC, "num_episodes=2", "num_evaluation_episodes=1")
    return folder


def test_a_run_without_a_posterior_is_not_asked_about_one(model_free: pathlib.Path, tmp_path: pathlib.Path) -> None:
    warnings: list[str] = []
    page = write_report([model_free], out=tmp_path / "a.md", warn=warnings.append).read_text()
    assert warnings == []
    assert page.startswith("# LinearGaussian-v0, sac: free\n")
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert titles == [row.title for row in SECTIONS if row.needs in ("", "learner")]
    above, _, configuration = page.partition("## Configuration")
    for word in ("planner", "planning", "planned", "mean-field", "Not shown", "cem"):
        assert word not in above, word
    assert "| algorithm | sac |" in above
    assert "critic loss" in above
    assert "planner.name" in configuration  # all settings stand there, used or not


def test_a_run_with_a_posterior_and_one_without_stand_side_by_side(
    finished: pathlib.Path, model_free: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(
        monkeypatch,
        Row("improvement", "What the algorithm learned", needs="learner"),
        Row("diagnosis", "D", needs="model"),
    )
    page = write_report([finished, model_free], out=tmp_path / "a.md", warn=lambda _: None).read_text()
    assert "| algorithm | mpc | sac |" in page
    assert "| posterior | mean-field | — |" in page
    assert "mpc has nothing of the kind" in page
    assert "sac has nothing of the kind" in page


def test_one_run_goes_into_its_folder_several_beside_the_first(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(monkeypatch)
    shutil.copytree(run, run.parent / "other" / "second")
    assert report(run).stdout == f"{run}/report.html\n"
    assert report(run, run.parent / "other" / "second", run).stdout == f"{run.parent}/report.html\n"
    page = (run.parent / "report.html").read_text()
    assert "<h1>2 runs: run, second</h1>" in page
    assert report(run, "--format", "md").stdout == f"{run}/report.md\n"
    assert report(run, "--out", run / "x.md").stdout == f"{run}/x.md\n"
    text = (run / "x.md").read_text()
    pictures = sorted(path.name for path in (run / "x-figures").iterdir())
    assert pictures
    assert all(f"x-figures/{name}" in text for name in pictures)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "pdf"], "unknown format 'pdf'"),
        (["--out", "{run}/config.yaml"], "name a file that ends in .html"),
        (["--out", "{run}/a.md", "--format", "html"], "name a file that ends in .html"),
        (["--out", "{run}/nowhere/a.html"], "cannot write"),
        (["--dimensions", "0"], "two numbers with a comma"),
        (["--dimensions", "0,99"], "need two different numbers of 0.."),
        (["--dimensions", "1,1"], "need two different numbers of 0.."),
        (["--dimensions", "-1,0"], "two numbers with a comma"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], words: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(monkeypatch)
    result = report(run, *(argument.format(run=run) for argument in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(("name", "words"), [("nothing", "does not exist"), ("empty", "it has no config.yaml")])
def test_what_is_no_run_is_refused_before_any_work(
    name: str, words: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(monkeypatch)
    (run.parent / "empty").mkdir()
    result = report(run, run.parent / name)
    assert (result.exit_code, words in result.stderr) == (2, True)
    assert not (run.parent / "report.html").exists()


def test_dimensions_reach_the_map(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def section(run: LoadedRun, dimensions: tuple[int, int] | None = None) -> Section:
        asked.append(dimensions)
        return Section("Map")

    cheap(monkeypatch, Row("map", "Map", takes_dimensions=True))
    monkeypatch.setattr(Row, "load", lambda row: section if row.module == "map" else lambda about: Section(row.title))
    assert report(run, "--dimensions", "1, 0").exit_code == 0
    assert report(run).exit_code == 0
    assert asked == [(1, 0), None]


def test_a_section_that_fails_leaves_the_others(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Row.load

    def broken(run: LoadedRun) -> Section:
        raise ZeroDivisionError("by <nothing>")

    cheap(monkeypatch, Row("broken", "Broken part"), Row("is_not_there", "Not there"))
    monkeypatch.setattr(Row, "load", lambda row: broken if row.module == "broken" else load(row))
    result = report(run)
    assert result.exit_code == 0
    assert "warning: run, Broken part: this part failed with ZeroDivisionError: by <nothing>" in result.stderr
    page = (run / "report.html").read_text()
    assert "this part failed with ZeroDivisionError: by &lt;nothing&gt;" in page
    assert "this part failed with ModuleNotFoundError" in page
    assert "<h2>Configuration and versions</h2>" in page


NEEDED = (
    "metrics.jsonl", "transitions.npz", "evaluation.npz", "posterior/posterior.safetensors",
    "posterior/fit.safetensors",
)  # fmt: skip
OTHERS = "evaluation.json", "posterior.nc", "run.png", "posterior/after-episode-0000.safetensors"


def damage(path: pathlib.Path, how: str) -> None:
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) * 2 // 3] if how == "cut" else b"\x00<b>\xff" * 40)


@pytest.mark.parametrize("how", ["deleted", "cut", "garbage"])
@pytest.mark.parametrize("name", NEEDED + OTHERS)
def test_damage_is_named(name: str, how: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    damage(run / name, how)
    result = report(run)
    assert (result.exit_code, result.stderr) == (0, "")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "failed with" not in page
    assert name not in NEEDED or pathlib.Path(name).name in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "how"),
    [*(([name], "deleted") for name in NEEDED), (OTHERS, "garbage"), (NEEDED + OTHERS, "cut")],
    ids=[*NEEDED, "others", "all"],
)
def test_no_section_fails_for_damage(names: list[str], how: str, run: pathlib.Path) -> None:
    for name in names:
        damage(run / name, how)
    result = report(run)
    assert (result.exit_code, "failed with" in result.stderr) == (0, False)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == len([row for row in SECTIONS if row.needs != "learner"])


def test_a_run_of_one_checkpoint_is_reported(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    for path in run.iterdir():
        if path.name not in ("config.yaml", "checkpoint"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = report(run)
    assert result.exit_code == 0
    page = (run / "report.html").read_text()
    assert "Not shown: metrics.jsonl cannot be read" in page
    assert "<td>100</td>" in page


def test_rows_that_are_not_finite_are_counted(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    with np.load(run / "transitions.npz") as file:
        arrays = dict(file)
    arrays["reward"][[3, 5]] = np.nan
    arrays["state"][7] = np.inf
    np.savez(run / "transitions.npz", **arrays)
    assert report(run).exit_code == 0
    page = (run / "report.html").read_text()
    assert "reward is NaN or infinite in 2 of 100 rows, first in row 3" in page
    assert "state is NaN or infinite in 1 of 100 rows, first in row 7" in page


def test_an_environment_that_is_not_there_costs_the_model_only(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(monkeypatch)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("env: LinearGaussian-v0", "env: Nowhere-v9"))
    assert report(run).exit_code == 0
    page = (run / "report.html").read_text()
    assert "the environment cannot be made here" in page
    assert "Nowhere-v9" in page


def test_hostile_names_are_text(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    evil = run.rename(run.parent / "<script>alert(1)<script>")
    other = shutil.copytree(evil, run.parent / "'\"& $x$ <img src=x>\n\udc80")
    assert report(evil, other).exit_code == 0
    page = (run.parent / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page.split("<script>")[0]


def test_a_page_that_is_too_large_is_written_with_a_warning(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    monkeypatch.setattr(reporting, "MAX_BYTES", 1000)
    result = report(run)
    assert result.exit_code == 0
    assert "warning: the page has 4.8 MB" in result.stderr


def test_a_report_that_cannot_be_written_says_why(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)
    (run / "report.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        write_report([run], warn=print)


@pytest.mark.slow
def test_the_benchmark_makes_a_whole_run(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "report.py"
    benchmark = runpy.run_path(str(path))
    num = benchmark["make_run"](tmp_path / "run", num_episodes=3, num_samples=7, num_fit_steps=5)
    with open_run(tmp_path / "run") as run:
        assert run.missing == ()
        assert run.transitions is not None
        assert run.final is not None
        assert len(run.transitions) == run.final.num_fitted == num == 600
        assert (len(run.metrics), len(run.snapshots), run.config.rollout.num_theta) == (3, 3, 7)
