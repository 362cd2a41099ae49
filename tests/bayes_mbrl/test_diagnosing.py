"""`bayes-mbrl diagnose`: what it writes and prints for whole runs, parts of runs, and what is no run."""

import json
import pathlib
import shutil
from collections.abc import Sequence

import matplotlib.image
import pytest
import typer.testing
from toy_runs import start

from bayes_mbrl import cli, diagnosing
from bayes_mbrl.analysis.arviz_tree import load_tree


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    model = ("dynamics=linear", "dynamics.noise_std=1.0", "posterior=exact-linear")
    start(folder, "LinearGaussian-v0", *model, "num_episodes=3", "num_evaluation_episodes=1")
    return folder


def invoke(*arguments: object) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(cli.app, ["diagnose", *map(str, arguments)])


def listed(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_verdicts_are_printed_and_everything_is_written(run: pathlib.Path) -> None:
    before = listed(run)
    result = invoke(run)
    assert result.exit_code == 0, result.output
    assert "\tq is close" not in result.output
    row = next(line for line in result.output.splitlines() if line.startswith("PSIS-LOO\t"))
    assert row.split("\t")[2] == "ok"
    assert listed(run) - before == {"diagnosis"}
    assert listed(run / "diagnosis") == {"verdicts.json", "leave-one-out.png", "posterior.nc"}
    assert matplotlib.image.imread(run / "diagnosis" / "leave-one-out.png").shape[1] > 900
    verdicts = json.loads((run / "diagnosis" / "verdicts.json").read_text())
    assert {verdict["name"] for verdict in verdicts} == {"R-hat", "PSIS k̂ of q", "PSIS-LOO"}
    assert next(verdict["value"] for verdict in verdicts if verdict["name"] == "R-hat") is None
    tree = load_tree(run / "diagnosis" / "posterior.nc")
    assert tree["posterior"]["f_off"].dims == ("chain", "draw", "off_point", "state_dim")
    assert all(str(run / "diagnosis" / name) in result.output for name in listed(run / "diagnosis"))


def test_families_are_refitted_and_compared(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = diagnosing.diagnose_run(
        run, against=["point"], folds=2, out=tmp_path / "out", progress=(said := []).append
    )
    assert said[0].startswith(
        "2 x 2 refits of 150 transitions, held out as whole episodes, each about as long as a fit of the run"
    )
    assert "exact-linear (linear)" in said[0]
    assert "point (linear)" in said[0]
    assert len(said) == 1 + 4
    table = report.tables[1]
    assert table.columns[:3] == ["model", "dynamics", "elpd (nats)"]
    assert {row[0] for row in table.rows} == {"exact-linear", "point"}
    assert {row[1] for row in table.rows} == {"linear"}
    k_fold = next(row for row in report.tables[0].rows if row[0] == "K-fold")
    assert "in 2 folds of whole episodes" in k_fold[3]
    assert (tmp_path / "out" / "families.png") in report.paths
    assert not (run / "out").exists()


def test_the_runs_own_family_among_those_asked_for_is_said(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = diagnosing.diagnose_run(run, against=["exact-linear"], folds=2, out=tmp_path)
    assert "--against exact-linear: the run's own family, which is always compared" in report.missing


def test_k_fold_takes_the_place_of_a_leave_one_out_that_cannot_be_trusted(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Of an exact posterior leave-one-out is sound; one draw has none."""
    said: list[str] = []
    report = diagnosing.diagnose_run(run, out=tmp_path / "sound", progress=said.append)
    assert "K-fold" not in {row[0] for row in report.tables[0].rows}
    assert not said
    point = tmp_path / "point"
    start(point, "LinearGaussian-v0", "posterior=point")
    report = diagnosing.diagnose_run(point, progress=said.append)
    assert "K-fold" in {row[0] for row in report.tables[0].rows}
    assert said[0] == "leave-one-out cannot be trusted here, so K-fold is done instead; --folds 0 leaves it out"
    assert said[1].startswith("1 x 5 refits of 150 transitions")
    report = diagnosing.diagnose_run(point, folds=0, out=tmp_path / "none", progress=said.append)
    assert "K-fold" not in {row[0] for row in report.tables[0].rows}


def test_more_folds_than_episodes_are_blocks_of_rows(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    report = diagnosing.diagnose_run(run, folds=7, out=tmp_path, progress=said.append)
    assert "held out as contiguous blocks of rows" in said[0]
    assert len(report.tables) == 1


def without(run: pathlib.Path, folder: pathlib.Path, *names: str) -> pathlib.Path:
    copy = folder / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("diagnosis"))
    for name in names:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("posterior/posterior.safetensors",),
            "posterior.safetensors is missing: what it knew after episode 2 is shown",
        ),
        (("posterior/fit.safetensors",), "fit's own"),
        (("transitions.npz", "checkpoint"), "transitions"),
        (("posterior",), "posterior"),
        (("metrics.jsonl", "evaluation.npz", "posterior.nc"), "metrics.jsonl"),
    ],
)
def test_a_part_of_a_run_is_a_part_of_a_diagnosis(
    run: pathlib.Path, tmp_path: pathlib.Path, names: Sequence[str], words: str
) -> None:
    copy = without(run, tmp_path, *names)
    result = invoke(copy)
    assert result.exit_code == 0, result.output
    assert any(line.startswith("missing: ") and words in line for line in result.output.splitlines()), result.output
    assert (copy / "diagnosis" / "verdicts.json").exists()


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (None, [], "does not exist"),
        ("empty", [], "is not the folder of a run"),
        ("run", ["--against", "meanfield"], "did you mean mean-field"),
        ("run", ["--folds", "151"], "need 2 <= --folds <= 150"),
        ("run", ["--folds", "1"], "need 2 <= --folds <= 150"),
        ("run", ["--folds", "-1"], "greater than or equal to 0"),
        ("run", ["--folds", "0", "--against", "point"], "got --against and --folds 0: leave one of them out"),
        ("partial", ["--folds", "3"], "there is nothing to refit"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(
    run: pathlib.Path, tmp_path: pathlib.Path, make: str | None, arguments: list[str], words: str
) -> None:
    folder = tmp_path / "folder"
    if make == "empty":
        folder.mkdir()
    elif make is not None:
        folder = without(run, tmp_path, *(["posterior", "checkpoint"] if make == "partial" else []))
    result = invoke(folder, *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (folder / "diagnosis").exists()


def test_an_out_that_is_a_file(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").write_text("")
    result = invoke(run, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "cannot write" in result.output
