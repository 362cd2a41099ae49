"""Learning curves: which runs are one line, what the band is, and what a gap is."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from toy_runs import configure

from bayes_mbrl.analysis.charts import Band, Chart, Line, Points
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.sections import learning


@pytest.fixture
def make(tmp_path: pathlib.Path) -> Any:
    """A run as it is read back, of episodes of 10 steps with these returns."""

    def run(name: str, returns: list[float | None], *settings: str, env: str = "Pendulum-v1", **more: Any) -> LoadedRun:
        folder = tmp_path / name
        folder.mkdir()
        lengths = more.get("lengths", [10] * len(returns))
        metrics = [
            {"episode": e, "phase": "mpc" if e else "base policy", "return": value, "num_steps": lengths[e],
             "num_transitions": sum(lengths[: e + 1]), "held_out_rmse": 0.5**e if e else None}
            for e, value in enumerate(returns)
        ]  # fmt: skip
        if "evaluation" in more:
            (folder / "evaluation.json").write_text(json.dumps({"returns": more["evaluation"]}))
        return LoadedRun(folder, configure(env, *settings), None, metrics, None, None, None, {}, {}, ())

    return run


def of_kind(chart: Any, kind: type) -> list[Any]:
    assert isinstance(chart, Chart)
    return [mark for mark in chart.marks if isinstance(mark, kind)]


def test_seeds_are_one_line_with_mean_and_band(make: Any) -> None:
    runs = [make(str(s), [1.0 * s, 10, 2.0 + s], f"seed={s}", evaluation=[s, s + 2]) for s in range(3)]
    section = learning.section(runs)
    chart = section.figures[0]
    (band,) = of_kind(chart, Band)
    *each, mean = of_kind(chart, Line)
    assert (len(each), mean.label) == (3, "mean-field, 3 seeds")
    np.testing.assert_allclose(mean.y, [1, 10, 3])
    np.testing.assert_allclose((band.high - band.low) / 2, [1, 0, 1])
    assert "one standard deviation of the seeds" in chart.note  # type: ignore[union-attr]
    assert section.text == (
        ["mean-field, 3 seeds: return 1.0 ± 1.0 in the first episode, 3.0 ± 1.0 in the last; "
         "2.0 ± 1.0 in evaluation (± one standard deviation of 3 seeds)."]
    )  # fmt: skip
    assert section.missing == []
    assert [row[:3] for row in section.tables[0].rows] == [("0", "0", "3"), ("1", "1", "3"), ("2", "2", "3")]


def test_another_setting_is_another_line(make: Any) -> None:
    runs = [make("a", [1.0, 2], "seed=1"), make("b", [1.0, 2], "planner.horizon=3"), make("c", [3.0, 4], "seed=2")]
    labels = [line.label for line in of_kind(learning.section(runs).figures[0], Line) if line.label]
    assert labels == ["planner.horizon 2, 2 seeds", "b"]


def test_evaluation_stands_behind_the_last_episode(make: Any) -> None:
    chart = learning.section([make("a", [1.0, 2], evaluation=[5.0, 9.0])]).figures[0]
    base, each, mean = of_kind(chart, Points)
    assert (base.x.tolist(), base.y.tolist()) == ([0], [1])
    assert (each.x.tolist(), each.y.tolist()) == ([2, 2], [5, 9])
    assert (mean.x.tolist(), mean.y.tolist()) == ([2], [7])


def test_words_are_for_as_many_episodes_as_there_are(make: Any) -> None:
    def words(name: str, returns: list[float | None], evaluation: list[float] | None = None) -> str:
        more = {} if evaluation is None else {"evaluation": evaluation}
        return str(learning.section([make(name, returns, **more)]).text[0])

    assert words("a", [-5.0]) == "mean-field: return −5.0 in the only episode."
    assert words("b", [-5.0, 2.0], [3.0]).endswith("2.0 in the last; 3.0 in 1 evaluation episode.")
    assert words("c", [-5.0, 2.0], [2.0, 4.0]).endswith(
        "; 3.0 ± 1.4 in 2 evaluation episodes (± one standard deviation)."
    )
    assert words("d", [None], [3.0]) == "mean-field: 3.0 in 1 evaluation episode."
    assert words("e", [None]) == "mean-field: no return is known."


def test_of_seeds_the_one_that_was_evaluated_is_the_one_that_is_told(make: Any) -> None:
    runs = [make("a", [1.0, 2.0], "seed=0"), make("b", [1.0, 2.0], "seed=1", evaluation=[7.0, 9.0])]
    assert "8.0 ± 1.4 in 2 evaluation episodes" in learning.section(runs).text[0]


def test_the_note_is_of_what_is_drawn(make: Any) -> None:
    for evaluation, told in (([], False), ([3.0], True)):
        chart = learning.section([make(f"a{told}", [1.0, 2.0], evaluation=evaluation)]).figures[0]
        assert isinstance(chart, Chart)
        assert ("evaluation" in chart.note) is told


def test_environments_have_a_chart_each(make: Any) -> None:
    runs = [make("a", [1.0, 2]), make("b", [1.0, 2], env="LinearGaussian-v0")]
    titles = [figure.title for figure in learning.section(runs).figures]
    assert titles[::2] == ["Return of each episode, Pendulum-v1", "Return of each episode, LinearGaussian-v0"]


def test_episodes_of_different_lengths_are_also_drawn_over_steps(make: Any) -> None:
    runs = [
        make("a", [1.0, 2, 3], "seed=1", lengths=[10, 10, 10]),
        make("b", [4.0, 5, 6, 7], "seed=2", lengths=[5, 20, 2, 30]),
    ]
    chart = next(figure for figure in learning.section(runs).figures if figure.title == "Return over steps")
    mean = of_kind(chart, Line)[-1]
    np.testing.assert_allclose(mean.x, [10, 20, 25, 27, 30])
    np.testing.assert_allclose(mean.y, [(1 + 4) / 2, (2 + 4) / 2, (2 + 5) / 2, (2 + 6) / 2, (3 + 6) / 2])
    assert "Return over steps" not in [f.title for f in learning.section([make("c", [1.0, 2])]).figures]


def test_what_is_not_finite_is_a_gap_and_counted(make: Any) -> None:
    section = learning.section([make("a", [1.0, None, 3, 4], "seed=1"), make("b", [1.0, 2, 3], "seed=2")])
    mean = of_kind(section.figures[0], Line)[-1]
    np.testing.assert_array_equal(mean.y, [1, np.nan, 3, np.nan])
    assert section.missing == ["1 of 4 returns of a, which are not finite: gaps"]
    assert section.text[0].startswith("mean-field, 2 seeds: return 1.0 ± 0.0 in the first episode, 3.0 ± 0.0 in the")


def test_a_run_without_episodes_is_named(make: Any) -> None:
    section = learning.section([make("a", []), make("b", [2.0])])
    assert section.missing == ["a has no finished episode on record"]
    assert len(section.tables[0].rows) == 2
    assert learning.section([make("c", [])]).figures == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"returns": null}', '{"returns": ["a", NaN, true, 3.5]}'])
def test_a_damaged_evaluation_is_not_believed(make: Any, text: str) -> None:
    run = make("a", [1.0])
    (run.folder / "evaluation.json").write_text(text)
    assert learning.evaluation_returns(run).tolist() == ([3.5] if "3.5" in text else [])
    assert learning.section([run]).figures
