"""`bayes-mbrl study`: does the tasks of a study, judges its claim, and leaves figure, numbers and a page."""

import dataclasses
import importlib
import json
import math
import pathlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

from bayes_mbrl import studies
from bayes_mbrl.analysis.charts import Chart, Section, Slides, Table
from bayes_mbrl.analysis.report import Chapter, html_page
from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.config_problems import unknown_name
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.study import Contrast, Study, Verdict, verdict_of
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.task import Outcome


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a study."""

    study: Study
    contrasts: Sequence[Contrast]
    verdict: Verdict
    num_seeds: int
    """That all arms have."""
    errors: Sequence[str]
    """Of the arms that failed: a line each."""


def study_names() -> list[str]:
    """Of all studies, as they are called on the command line."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(studies.__path__))


def find_study(name: str) -> Study:
    """The study of that name. Raises UserError when there is none."""
    if name not in study_names():
        raise UserError(unknown_name("study", name, study_names()))
    found = importlib.import_module(f"{studies.__name__}.{name.replace('-', '_')}").STUDY
    assert isinstance(found, Study)
    return found


def run_study(
    name: str,
    root: pathlib.Path,
    *,
    quick: bool,
    num_seeds: int | None = None,
    told: Callable[[Outcome], None] = lambda _: None,
    **engine: Any,
) -> Finding:
    """Do what is not yet done of the study in the folder `root`, judge the claim, and write what was found there.

    `engine` as of `do_all`. Raises UserError when there is no such study, when fewer than two seeds have all arms, and
    as `do_all`.
    """
    study = find_study(name)
    outcomes = do_all(study.tasks(name, quick=quick, num_seeds=num_seeds), root, told=told, **engine)
    errors = [f"{outcome.task.name}: {outcome.error}" for outcome in outcomes if outcome.result is None]
    results = study.results(outcomes)
    whole = len(next(iter(results.values())))
    if whole < 2:
        raise UserError("\n".join([*errors, f"{whole} seeds have all arms, and a claim is judged by 2 or more"]))
    contrasts = study.contrasts(results)
    errors += [
        f"{one.statement}: not a finite number for every seed, got {list(one.values)}"
        for one in contrasts
        if math.isnan(one.interval.estimate)
    ]
    finding = Finding(study, contrasts, verdict_of(contrasts), whole, errors)
    chart = study.figure(results)
    found = {"name": name, "quick": quick, **_as_json(finding), "note": _note(chart)}
    with writing(root):
        write_text(root / "finding.json", json.dumps(found, indent=1))
        save_chart(chart, root / "figure.png")
        section = Section(
            name, [f"The claim: {study.claim}", sentence(finding)], [chart], [table(finding)], missing=errors
        )
        write_text(root / "study.html", html_page(f"Study: {name}", [Chapter(name, [("", section)])]))
    return finding


def sentence(finding: Finding) -> str:
    """The verdict, and what it rests on."""
    return f"{finding.verdict}, by {finding.num_seeds} seeds; intervals are of means over seeds, 95 %."


def table(finding: Finding) -> Table:
    """A row for each number that the claim says is positive."""
    rows = [[one.statement, str(one.interval), one.verdict] for one in finding.contrasts]
    return Table(["what the claim says is above 0", "mean and interval", "verdict"], rows)


def _note(figure: Chart | Slides) -> str:
    """How to read it; the picture does not say."""
    return (figure.charts[-1] if isinstance(figure, Slides) else figure).note


def _finite(value: float) -> float | None:
    """JSON has no others."""
    return value if math.isfinite(value) else None


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "claim": finding.study.claim,
        "verdict": finding.verdict,
        "num_seeds": finding.num_seeds,
        "contrasts": [
            {"statement": one.statement, "values": [*map(_finite, one.values)], "verdict": one.verdict}
            | {key: _finite(getattr(one.interval, key)) for key in ("estimate", "low", "high")}
            for one in finding.contrasts
        ],
        "errors": list(finding.errors),
    }
