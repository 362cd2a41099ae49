"""`bayes-mbrl study`: does the tasks of a study, judges its claim, and leaves figure, numbers and a page."""

import dataclasses
import hashlib
import importlib
import inspect
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
from bayes_mbrl.registry import load_attribute
from bayes_mbrl.study import Contrast, Results, Study, Verdict, verdict_of
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
    warn: Callable[[str], None] = lambda _: None,
    **engine: Any,
) -> Finding:
    """Do what is not yet done of the study in the folder `root`, judge the claim, and write what was found there.

    `engine` as of `do_all`. What failed, or could not be compared, is among the finding's errors, and then no claim is
    supported. Raises UserError when there is no such study, for fewer than two seeds, when the folder holds another
    study, and as `do_all`.
    """
    study = find_study(name)
    if num_seeds is not None and num_seeds < 2:
        raise UserError(f"a claim is judged by 2 seeds or more, got {num_seeds}")
    _check_folder(name, study, root, warn)
    tasks = study.tasks(name, quick=quick, num_seeds=num_seeds)
    outcomes = do_all(tasks, root, told=told, warn=warn, **engine)
    errors = [f"{outcome.task.name}: {outcome.error}" for outcome in outcomes if outcome.result is None]
    results = study.results(outcomes)
    contrasts, charts = list[Contrast](), list[Chart | Slides]()
    try:
        contrasts = _compared(study, results)
        charts = [study.figure(results)]
    except (ArithmeticError, LookupError, ValueError) as error:  # of numbers that nobody has foreseen
        errors.append(f"what was measured could not be compared: {error if str(error) else type(error).__name__}")
    errors += [
        f"{one.statement}: not a finite number for every seed, got {list(one.values)}"
        for one in contrasts
        if math.isnan(one.interval.estimate)
    ]
    verdict = verdict_of(contrasts) if contrasts else "undecided"
    if errors and verdict == "supported":  # who knows what the failed ones would have said
        verdict = "undecided"
    finding = Finding(study, contrasts, verdict, len(next(iter(results.values()))), errors)
    _write(name, quick, finding, charts, root)
    return finding


def _compared(study: Study, results: Results) -> list[Contrast]:
    whole = len(next(iter(results.values())))
    if whole < 2:
        raise ValueError(f"{whole} seeds have all arms, and a claim is judged by 2 or more")
    return list(study.contrasts(results))


def _check_folder(name: str, study: Study, root: pathlib.Path, warn: Callable[[str], None]) -> None:
    """Refuse the folder of another study; warn where the study's file is not the one that results were measured by."""
    if (root / "finding.json").is_file():
        other = json.loads((root / "finding.json").read_text(encoding="utf-8")).get("name")
        if other != name:
            raise UserError(f"{root} holds the study {other}: take another folder by --out")
    file = inspect.getsourcefile(load_attribute(study.measure))
    assert file is not None
    now = hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()[:12]
    record = root / "measured_by.txt"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        before = record.read_text(encoding="utf-8").split() if record.is_file() else []
        write_text(record, "\n".join(dict.fromkeys([*before, now])) + "\n")
    if set(before) - {now}:
        warn(
            f"the study's file was changed after some of the results in {root} were measured, which are kept; "
            "to measure all of them anew, take another folder by --out"
        )


def _write(name: str, quick: bool, finding: Finding, charts: Sequence[Chart | Slides], root: pathlib.Path) -> None:
    found = {"name": name, "quick": quick, **_as_json(finding), "note": " ".join(map(_note, charts))}
    text = [f"The claim: {finding.study.claim}", sentence(finding)]
    section = Section(name, text, charts, [table(finding)], missing=finding.errors)
    with writing(root):
        write_text(root / "finding.json", json.dumps(found, indent=1))
        write_text(root / "study.html", html_page(f"Study: {name}", [Chapter(name, [("", section)])]))
        (root / "figure.png").unlink(missing_ok=True)
        for chart in charts:
            save_chart(chart, root / "figure.png")


def sentence(finding: Finding) -> str:
    """The verdict, and what it rests on."""
    failed = " Not all could be measured or compared: see below." if finding.errors else ""
    return f"{finding.verdict}, by {finding.num_seeds} seeds; intervals are of means over seeds, 95 %.{failed}"


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
