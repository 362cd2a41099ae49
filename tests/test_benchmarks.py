"""benchmarks/uci.py on a tiny set of our own: its units, what it may look at, and that it goes on where it ended."""

import importlib.util
import json
import pathlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayes_mbrl.inference import point
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.optimise import DivergedFitError

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
NUM_DATA, NUM_SPLITS = 60, 3


@pytest.fixture(scope="module")
def uci() -> ModuleType:
    spec = importlib.util.spec_from_file_location("uci", FOLDER / "uci.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["uci"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with the set "yacht": inputs of three scales, y of some thousands."""
    random = np.random.default_rng(0)
    x = random.normal(size=(NUM_DATA, 3)) * [0.01, 1.0, 1000.0] + 5.0
    y = 1000 * (x[:, 0] * 100 + np.sin(x[:, 1])) + 100 * random.normal(size=NUM_DATA)
    test = np.stack([np.arange(NUM_DATA) % 10 == split for split in range(NUM_SPLITS)])
    np.savez(tmp_path / "yacht.npz", x=x, y=y, test=test)
    return tmp_path


def _edited(data: pathlib.Path, **new: Any) -> None:
    with np.load(data / "yacht.npz") as file:
        arrays = dict(file)
    np.savez(data / "yacht.npz", **{**arrays, **{name: edit(arrays) for name, edit in new.items()}})


def _run(uci: ModuleType, data: pathlib.Path, *options: str, family: str = "point", steps: int = 20) -> list[Any]:
    """The lines that a run leaves."""
    output = data / "out" / "results.jsonl"
    base = ["--data", str(data), "--sets", "yacht", "--output", str(output), "--families", family]
    uci.main([*base, "--splits", "3", *options, "--change", f"fit.num_steps={steps}", "model.hidden=(5,)"])
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_scores_are_the_mixture_s_in_original_units(
    uci: ModuleType, data: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two θ whose means are constants 0 and 1 in standardised units, and their std one number."""

    def fit(model: BayesianNetwork, x: Tensor, y: Tensor, **_: Any) -> tuple[DrawsPosterior, None]:
        draws = {name: torch.zeros(2, *prior.batch_shape) for name, prior in model.prior().items()}
        draws["bias_1"][1, 0] = 1.0
        return DrawsPosterior(draws), None

    monkeypatch.setattr(point, "fit", fit)
    (line,) = _run(uci, data, "--splits", "1")
    with np.load(data / "yacht.npz") as file:
        y, test = file["y"], file["test"][0]
    mean, std = y[~test].mean(), y[~test].std()
    noise = std * (
        uci.FAMILIES["point"].model["min_std"] + 2 / 3
    )  # 2 · sigmoid(0 − log 2) with the network's max_std, 2
    densities = [np.exp(-0.5 * ((y[test] - m) / noise) ** 2) / (noise * np.sqrt(2 * np.pi)) for m in (mean, mean + std)]
    assert line["log_likelihood"] == pytest.approx(np.log(np.mean(densities, axis=0)).mean(), abs=1e-4)
    assert line["rmse"] == pytest.approx(np.sqrt(((y[test] - mean - std / 2) ** 2).mean()), rel=1e-5)


def test_validation_sees_no_test_row(uci: ModuleType, data: pathlib.Path) -> None:
    before = _run(uci, data, "--validation", "--splits", "1")
    (data / "out" / "results.jsonl").unlink()
    _edited(
        data,
        x=lambda old: np.where(old["test"][0][:, None], np.nan, old["x"]),
        y=lambda old: np.where(old["test"][0], np.nan, old["y"]),
    )
    after = _run(uci, data, "--validation", "--splits", "1")
    assert [line["log_likelihood"] for line in after] == [line["log_likelihood"] for line in before]
    assert np.isfinite(after[0]["rmse"])


def test_an_interrupted_run_goes_on(
    uci: ModuleType, data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _run(uci, data)
    table = capsys.readouterr().out.split("\n\n")[1]
    assert [line["split"] for line in whole] == list(range(NUM_SPLITS))
    assert "| deterministic VI (Wu et al. 2019) | −0.47 |  |" in table
    output = data / "out" / "results.jsonl"
    lines = output.read_text().splitlines(keepends=True)
    output.write_text(lines[0] + lines[1][:30])  # killed while it wrote

    computed = []
    do = uci.do
    monkeypatch.setattr(uci, "do", lambda job: computed.append(job.split) or do(job))
    resumed = _run(uci, data)
    assert computed == [1, 2]
    without_time = [{name: value for name, value in line.items() if name != "seconds"} for line in resumed]
    assert without_time == [{name: value for name, value in line.items() if name != "seconds"} for line in whole]

    _run(uci, data, steps=21)  # another recipe: what was measured by the last one does not count
    assert computed == [1, 2, 0, 1, 2]


def test_a_diverged_fit_counts(
    uci: ModuleType, data: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = point.fit

    def diverges_in_split_1(model: BayesianNetwork, x: Tensor, y: Tensor, **settings: Any) -> Any:
        posterior, info = fit(model, x, y, **settings)
        if settings["generator"].initial_seed() == 1:
            raise DivergedFitError(posterior, info)
        return posterior, info

    monkeypatch.setattr(point, "fit", diverges_in_split_1)
    lines = _run(uci, data)
    assert [np.isnan(line["rmse"]) for line in lines] == [False, True, False]
    assert "| `point` | 1 of 3 diverged | 1 of 3 diverged |" in capsys.readouterr().out


def test_every_family_runs(uci: ModuleType, data: pathlib.Path) -> None:
    for family in uci.FAMILIES.keys() - {"nuts"}:  # its settings are others, and compiling takes ten seconds
        assert np.isfinite(_run(uci, data, "--splits", "1", family=family, steps=3)[-1]["log_likelihood"])


def test_unknown_data_are_named(uci: ModuleType, data: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        uci.main(["--data", str(data), "--sets", "yacht", "kin8nm"])
    assert "need kin8nm.npz in --data" in capsys.readouterr().err
