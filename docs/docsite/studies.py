"""A page for each study, made of its `STUDY` and of what was found: nobody writes a verdict by hand."""

import importlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from bayes_mbrl.study import FIRST_SEED, Study
from bayes_mbrl.studying import find_study, study_names
from docsite.links import toctree
from docsite.reference import markdown

INDEX = """\
# Studies

Each claim of the lecture is an experiment: arms over seeds, one figure, and a verdict by bootstrap intervals over
seeds. A claim is *supported* if every one of the k numbers that it says are positive has its 95 % interval above 0,
*refuted* if the interval of one lies below 0 at the level 1 − 0.05 / k, since one of many falls there by chance more
often than one alone, and *undecided* otherwise. So a number may be called refuted where the claim is undecided. An
interval of equal numbers is unbounded, and no claim is supported of which a run failed. The quick version and the
full one begin with the same seeds; more seeds until a verdict pleases would make any verdict worthless, so decide on
their number beforehand. Nobody writes a verdict by hand: these pages are made of what `bayes-mbrl study` wrote.
`--quick` takes few seeds and little training, so its intervals are wide.

```sh
bayes-mbrl study --list
bayes-mbrl study output-entropy --quick
```

"""


def pages(docs: pathlib.Path) -> dict[str, str]:
    """Path on the site → Markdown, for the index and every study; findings lie in docs/studies/<name>/."""
    made, rows = {}, []
    for name in study_names():
        study, finding = find_study(name), _finding(docs / "studies" / name)
        module = importlib.import_module(study.measure.split(":")[0])
        made[f"studies/{name}.md"] = page(name, study, finding, module.__doc__ or "")
        verdict = f"**{finding['verdict']}**{' (quick)' if finding['quick'] else ''}" if finding else "not run yet"
        rows.append(f"| [{name}]({name}.md) | {_cell(study.claim)} | {verdict} |")
    table = "\n".join(["| study | claim | verdict |", "|---|---|---|", *rows])
    return {"studies/index.md": INDEX + table + "\n" + toctree(study_names()), **made}


def page(name: str, study: Study, finding: dict[str, Any] | None, about: str) -> str:
    """The page of one study; `finding` as in its finding.json, None if it has not been run."""
    quick, full = study.minutes
    few, many = study.num_seeds
    return "\n\n".join(
        [
            f"# {name}",
            f"> {markdown(study.claim)}",
            *(_found(name, study, finding) if finding else ["This study has not been run for this page yet."]),
            "## How it is measured",
            markdown(about),
            "| arm | setting |\n|---|---|\n"
            + "\n".join(f"| {arm} | {_spelt(given)} |" for arm, given in study.arms.items()),
            "## Run it",
            f"```sh\nbayes-mbrl study {name} --quick\nbayes-mbrl study {name}\n```",
            f"`--quick`: {few} seeds, {_minutes(quick)} of one processor. In full: {many} seeds, {_minutes(full)}. "
            f"Seeds from {FIRST_SEED} on; a study that was stopped goes on where it was when it is run again.",
        ]
    )


def _found(name: str, study: Study, finding: dict[str, Any]) -> list[str]:
    """What came of it."""
    which = "the quick version" if finding["quick"] else "the full version"
    rows = []
    for one in finding["contrasts"]:
        interval = f"{_interval(one)}"
        rows.append(f"| {_cell(one['statement'])} | {interval} | {one['verdict']} |")
    earlier = (
        "```{warning}\nThis was found when the claim read: " + finding["claim"] + "\n```"
        if finding["claim"] != study.claim
        else ""
    )
    return [
        f"**{finding['verdict'].capitalize()}**, by {finding['num_seeds']} seeds of {which}; intervals are of means "
        "over seeds, 95 %.",
        *filter(None, [earlier]),
        f"![What was measured]({name}/figure.png)",
        *filter(None, [finding["note"]]),
        "\n".join(["| what the claim says is above 0 | mean and interval | verdict |", "|---|---|---|", *rows]),
        *(f"Failed: {error}" for error in finding["errors"]),
    ]


def _finding(folder: pathlib.Path) -> dict[str, Any] | None:
    if not (folder / "finding.json").is_file():
        return None
    found: dict[str, Any] = json.loads((folder / "finding.json").read_text(encoding="utf-8"))
    return found


def _minutes(number: float) -> str:
    return f"about {number:g} {'minute' if number == 1 else 'minutes'}"


def _interval(one: Mapping[str, float | None]) -> str:
    """Of one contrast; JSON has null for what is not finite."""
    middle, low, high = (math.nan if one[key] is None else float(one[key] or 0) for key in ("estimate", "low", "high"))
    return f"{middle:.3g} [{'-∞' if math.isnan(low) else f'{low:.3g}'}, {'∞' if math.isnan(high) else f'{high:.3g}'}]"


def _cell(text: str) -> str:
    """Text in a table, whose cells end at a bar."""
    return markdown(text).replace("|", "\\|")


def _spelt(given: Any) -> str:
    return _cell(", ".join(f"{key}: `{value}`" for key, value in given.items()))
