"""The page of a comparison: what is drawn, and what is said where nothing can be."""

import pytest
from toy_comparison import failed, run

from bayes_mbrl.analysis.charts import Chart, Line, Points, Rule
from bayes_mbrl.analysis.report import Chapter, html_page
from bayes_mbrl.comparison_page import section


def labels(chart: object, kind: type) -> list[str]:
    assert isinstance(chart, Chart)
    return [mark.label for mark in chart.marks if isinstance(mark, kind)]


def test_profiles_and_runs_of_several_environments() -> None:
    runs = [run(env, method, seed, score) for env in ("a", "b") for method, score in (("p", 1.0), ("q", 2.0))
            for seed in (0, 1)]  # fmt: skip
    page = section(runs)
    assert [figure.title for figure in page.figures] == ["Performance profiles", "Runs in a", "Runs in b"]
    profiles, dots, _ = page.figures
    assert labels(profiles, Line) == ["p", "q"]
    assert labels(dots, Points) == ["1: p", "2: q"]
    assert labels(dots, Rule) == ["base policy"]
    assert page.tables[0].rows == [["q", "1 [1, 1]", "4", "0"], ["p", "0.5 [0.5, 0.5]", "4", "0"]]
    assert page.missing == []


def test_what_failed_is_said_once_for_all_its_seeds_and_is_not_drawn() -> None:
    runs = [run("a", "p", 0, 1.0), run("a", "p", 1, 1.5), run("b", "p", 0, 1.0), run("b", "p", 1, 1.5),
            run("a", "q", 0, 2.0), failed("a", "q", 1, "other"), failed("b", "q", 0), failed("b", "q", 1)]  # fmt: skip
    page = section(runs)
    assert page.missing == ["a, q, seed 1: other", "b, q, seeds 0, 1: it diverged"]
    profiles, in_a, in_b = page.figures
    assert labels(profiles, Line) == ["p"], "q has no run in b"
    assert labels(in_a, Points) == ["1: p", "2: q"]
    assert labels(in_b, Points) == ["1: p"]


@pytest.mark.parametrize("env", ["a", "b"])
def test_where_nothing_can_be_ranked_the_runs_are_shown(env: str) -> None:
    page = section([run(env, "p", 0, 1.0, None), failed("c", "p", 0)])
    assert [figure.title for figure in page.figures] == [f"Runs in {env}"]
    assert labels(page.figures[0], Rule) == []
    assert "none is ranked" in page.text[-1]
    assert page.tables == []
    assert "it diverged" in html_page("t", [Chapter("t", [("", page)])])


def test_one_run_is_a_page_too() -> None:
    page = section([run("a", "p", 0, 1.0)])
    assert page.tables[0].rows == [["p", "1 [-inf, inf]", "1", "0"]]
    assert "Performance profiles" in html_page("t", [Chapter("t", [("", page)])])
