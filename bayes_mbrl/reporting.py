"""`bayes-mbrl report`: which sections a report has, for which runs, and where it is written."""

import dataclasses
import importlib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from bayes_mbrl.analysis.charts import Section
from bayes_mbrl.analysis.report import Chapter, html_page, markdown_page
from bayes_mbrl.config_problems import unknown_name
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.loaded_run import LoadedRun, open_run
from bayes_mbrl.run_folder import load_run
from bayes_mbrl.sections.provenance import run_names

Form = Literal["html", "md"]

MAX_BYTES = 8_000_000
"""A page beyond this is written with a warning."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A section of the report: `section` of the module `bayes_mbrl.sections.<module>`."""

    module: str
    title: str
    joint: bool = False
    """Whether it is of all runs together: `section(runs)` instead of `section(run)`."""
    takes_dimensions: bool = False
    """Whether it is asked for two dimensions of the state: `section(run, dimensions=(i, j))`, or None."""
    needs: Literal["", "model", "plans", "learner"] = ""
    """What the run's algorithm has to have: p(θ | D), plans, or something that it learns beside p(θ | D)."""

    def serves(self, run: LoadedRun) -> bool:
        """Whether it has anything to say of such a run."""
        algorithm = run.config.algorithm.row
        has = {"model": algorithm.learns_model, "plans": algorithm.plans, "learner": not algorithm.plans}
        return has.get(self.needs, True)

    def load(self) -> Callable[..., Section]:
        """The function."""
        module: Any = importlib.import_module(f"bayes_mbrl.sections.{self.module}")
        return module.section  # type: ignore[no-any-return]


SECTIONS = (
    Row("overview", "What this is", joint=True),
    Row("learning", "Learning curve", joint=True),
    Row("improvement", "What the algorithm learned", needs="learner"),
    Row("knowledge", "What the model knew at each episode", needs="model"),
    Row("uncertainty_map", "Map of uncertainty", takes_dimensions=True, needs="model"),
    Row("plan_return", "The return of a plan", needs="plans"),
    Row("calibration", "Calibration", needs="model"),
    Row("diagnosis", "Did inference converge?", needs="model"),
    Row("shift", "Shift and error growth"),
    Row("exploitation", "Where the planner exploits the model", needs="plans"),
    Row("provenance", "Configuration and versions", joint=True),
)
"""In the order in which they are read; one that serves none of the runs is left out."""


def write_report(
    folders: Sequence[pathlib.Path],
    *,
    out: pathlib.Path | None = None,
    form: Form | None = None,
    dimensions: tuple[int, int] | None = None,
    warn: Callable[[str], None],
    progress: Callable[[str], None] = lambda text: None,
) -> pathlib.Path:
    """Write the report of these runs, side by side; returns where.

    Into `out`; without it into the run's own folder, of several runs beside the first. What a section could not do
    stands in the report and is told to `warn`; the rest of the report is made all the same.
    Raises UserError where a folder is no run, or `out`, `form` or `dimensions` cannot be.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    for folder in folders:
        load_run(folder, needs_environment=False)
    path, form = _target(folders, out, form)
    runs: list[LoadedRun] = []
    answers: list[dict[str, Section]] = []
    for folder in folders:
        with open_run(folder) as run:
            _check_dimensions(run, dimensions)
            answers.append(_answers(run, dimensions, warn, progress))
            runs.append(run)
    names = run_names(runs) if len(runs) > 1 else [""]
    chapters = []
    for row in SECTIONS:
        if not any(map(row.serves, runs)):
            continue
        if row.joint:
            progress(row.title)
            columns = [("", _answer(row, runs, {}, row.title, warn))]
        else:
            columns = [(name, answer[row.module]) for name, answer in zip(names, answers, strict=True)]
        chapters.append(Chapter(row.title, columns))
    title = f"{', '.join((runs[0].config.env, *runs[0].config.method))}: {runs[0].name}"
    _write(path, form, title if len(runs) == 1 else f"{len(runs)} runs: {', '.join(names)}", chapters, warn)
    return path


def parse_form(text: str | None) -> Form | None:
    """The form of that name; None stays None. Raises UserError when there is none."""
    if text is None or text in ("html", "md"):
        return text  # type: ignore[return-value]
    raise UserError(unknown_name("format", text, ("html", "md")))


def parse_dimensions(text: str | None) -> tuple[int, int] | None:
    """Two numbers with a comma between them; None stays None. Raises UserError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*", text, re.ASCII)
    if found is None:
        raise UserError(f"--dimensions {text}: write two numbers with a comma between them, such as 0,2")
    return int(found[1]), int(found[2])


def _answers(
    run: LoadedRun,
    dimensions: tuple[int, int] | None,
    warn: Callable[[str], None],
    progress: Callable[[str], None],
) -> dict[str, Section]:
    """By module, all sections that are of one run."""
    answers = {}
    for row in SECTIONS:
        if row.joint:
            continue
        if row.serves(run):
            where = f"{run.name}, {row.title}"
            progress(where)
            chosen = {"dimensions": dimensions} if row.takes_dimensions else {}
            answers[row.module] = _answer(row, run, chosen, where, warn)
        else:
            answers[row.module] = Section(row.title, missing=[f"{run.config.algorithm.name} has nothing of the kind."])
    return answers


def _answer(
    row: Row, about: LoadedRun | list[LoadedRun], chosen: Mapping[str, Any], where: str, warn: Callable[[str], None]
) -> Section:
    """The section, or what went wrong in it: that must cost nobody the rest of the report."""
    try:
        return row.load()(about, **chosen)
    except Exception as error:
        reason = f"this part failed with {type(error).__name__}: {error}"
        warn(f"{where}: {reason}")
        return Section(row.title, missing=[reason])


def _target(folders: Sequence[pathlib.Path], out: pathlib.Path | None, form: Form | None) -> tuple[pathlib.Path, Form]:
    """Where to write, and in which form: the one that is asked for, or that of the file's ending, or HTML."""
    if out is None:
        folder = folders[0] if len(folders) == 1 else folders[0] / ".."
        if len(folders) > 1 and folders[0].name not in ("", ".."):
            folder = folders[0].parent
        form = form or "html"
        return folder / f"report.{form}", form
    forms: dict[str, Form] = {".html": "html", ".htm": "html", ".md": "md"}
    found = forms.get(out.suffix.lower())
    if found is None or found != (form or found):
        wanted = " or ".join(suffix for suffix, known in forms.items() if known == (form or known))
        raise UserError(f"--out {out} does not fit the format: name a file that ends in {wanted}")
    return out, found


def _check_dimensions(run: LoadedRun, dimensions: tuple[int, int] | None) -> None:
    if dimensions is None or run.transitions is None:
        return
    state_dim = run.transitions.state.shape[1]
    if len(set(dimensions)) < 2 or not all(0 <= d < state_dim for d in dimensions):
        raise UserError(
            f"--dimensions {dimensions[0]},{dimensions[1]}: need two different numbers of 0..{state_dim - 1}, "
            f"the dimensions of the state of {run.config.env}"
        )


def _write(
    path: pathlib.Path, form: Form, title: str, chapters: Sequence[Chapter], warn: Callable[[str], None]
) -> None:
    with writing(path):
        if form == "md":
            pictures = path.with_name(f"{path.stem}-figures")
            pictures.mkdir(exist_ok=True)
            write_text(path, markdown_page(title, chapters, pictures=pictures))
            return
        page = html_page(title, chapters)
        write_text(path, page)
    if (size := len(page.encode("utf-8"))) > MAX_BYTES:
        warn(f"the page has {size / 1e6:.1f} MB, which a phone may be slow with: report fewer runs together")
