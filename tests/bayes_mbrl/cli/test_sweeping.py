"""`bayes-mbrl study` and `compare` as a person meets them, with tasks done in this process."""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest
import toy_studies
import toy_tasks
import typer.testing
from click.testing import Result

from bayes_mbrl import cli, studying
from bayes_mbrl.cli import shell
from bayes_mbrl.sweep import engine

TINY = ("env=LinearGaussian-v0", "num_episodes=2", "num_evaluation_episodes=2", "dynamics.hidden=[4]",
        "posterior.num_steps=3", "planner.horizon=2", "planner.num_candidates=12", "rollout.num_theta=2")  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """In a folder of its own, where the only study is the toy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "do_in_processes", toy_tasks.in_turn)
    monkeypatch.setattr(studying, "find_study", lambda name: toy_studies.STUDY)


def bayes_mbrl(*arguments: str) -> Result:
    return typer.testing.CliRunner().invoke(cli.app, arguments)


def test_a_study_from_claim_to_verdict_and_again() -> None:
    done = bayes_mbrl("study", "toy", "--quick")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "The claim: A toy is large."
    assert lines[1] == (
        "2 arms × 3 seeds, 0 of 6 done before; about 0.1 minutes of one processor to come → runs/studies/toy-quick"
    )
    assert lines[2] == "1/6 toy, large, seed 1000: done"
    assert lines[8] == "large minus small\t11 [8.52, 13.5]\tsupported"
    assert lines[9] == "toy: supported, by 3 seeds; intervals are of means over seeds, 95 %."
    assert all(pathlib.Path(line).is_file() for line in lines[10:])
    again = bayes_mbrl("study", "toy", "--quick", "--seeds", "4")
    assert "2 arms × 4 seeds, 6 of 8 done before; about 0.0 minutes" in again.stdout
    assert toy_studies.num_measured(pathlib.Path("runs/studies/toy-quick")) == 8


def test_a_failing_arm_is_told_and_the_exit_code_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_studies, "FAILING", {("large", 1001)})
    done = bayes_mbrl("study", "toy", "--quick", "--out", "here")
    assert done.exit_code == 1
    assert "toy, large, seed 1001: failed: RuntimeError: no luck" in done.stderr
    assert "1 failed, see above; the same command tries again what raised an error" in done.stderr
    assert "toy: undecided, by 2 seeds" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study"], "which study? One of "),
        (["study", "toy", "--seeds", "1"], "greater than or equal to 2"),
        (["study", "toy", "--engine", "dask"], "engine is one of local, ray, got dask"),
        (
            ["study", "toy", "--address", "auto"],
            "an address is of a Ray cluster: got auto with the engine local, not ray",
        ),
        (["compare", "--posterior", "point", "seed=3"], "say how many by --seeds in place of seed=3"),
        (["compare"], "what is to be compared? Give values of --env, --algorithm"),
        (["compare", "--posterior", "point,,nuts"], "--posterior takes names separated by commas, got 'point,,nuts'"),
        (["compare", "--posterior", "pint", "--seeds", "1"], "did you mean point?"),
        (["compare", "--posterior", "point", "--seeds", "0"], "greater than or equal to 1"),
        (["compare", "--posterior", "point", "planner.horizn=3"], "did you mean planner.horizon?"),
    ],
)
def test_mistakes(arguments: Sequence[str], said: str) -> None:
    done = bayes_mbrl(*arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_study_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    done = bayes_mbrl("study", "output-entropie")
    assert done.exit_code == 2
    assert "did you mean output-entropy?" in done.stderr


def test_list_says_claim_and_cost() -> None:
    done = bayes_mbrl("study", "--list")
    assert done.exit_code == 0
    for name in studying.study_names():
        assert name in done.stdout.splitlines()
    assert "of one processor: --quick 0.1 min, 3 seeds; in full 0.2 min, 10 seeds" in done.stdout


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "do_in_processes", stopped)
    monkeypatch.setattr(sys, "argv", ["bayes-mbrl", "study", "toy", "--out", "my folder"])
    done = bayes_mbrl("study", "toy", "--out", "my folder")
    assert done.exit_code == 130
    assert done.stderr == ("stopped; what is done is saved; go on with: bayes-mbrl study toy --out 'my folder'\n")
    assert shell.command_line() == "bayes-mbrl study toy --out 'my folder'"


def test_a_comparison_of_real_runs_with_an_arm_that_cannot_be() -> None:
    arguments = ["--posterior", "point,oracle", "--posterior", "point", "--planner", "random-shooting,cem"]
    done = bayes_mbrl("compare", *arguments, "--seeds", "2", *TINY, "--out", "compared")
    assert done.exit_code == 1, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "4 arms × 2 seeds → compared"
    assert sum(": return " in line for line in lines) == 4
    assert done.stderr.count("oracle, cem, seed ") == 2
    ranked = [line.split("\t") for line in lines if "\t" in line]
    assert {(method, num_runs) for method, _, num_runs in ranked} == {
        ("point, random-shooting", "2"),
        ("point, cem", "2"),
    }
    assert len(pathlib.Path("compared/runs.csv").read_text().splitlines()) == 9
    assert pathlib.Path("compared/compare.html").stat().st_size > 10_000


def test_a_comparison_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same one when it is started again, even with more seeds."""
    names = []
    for arguments in (["point"], ["point", "--seeds", "7"], ["point", "num_episodes=3"]):
        done = bayes_mbrl("compare", "--posterior", *arguments, "--engine", "none")
        names.append(done.stdout.split(" → ")[1].strip())
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("runs/compare-")


@pytest.mark.slow
def test_the_installed_command_in_real_processes(tmp_path: pathlib.Path) -> None:
    command = pathlib.Path(sys.executable).with_name("bayes-mbrl")
    arguments = ["compare", "--objective", "mean,worst-theta", "--seeds", "1", "--workers", "2", *TINY]
    done = subprocess.run([command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2/2 " in done.stdout
