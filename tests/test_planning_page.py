"""The program of docs/planning.md runs, the tests that it names exist, and what can be chosen is named."""

import pathlib
import re

from bayes_mbrl.registry import SECTIONS

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "planning.md").read_text()
PROGRAMS = re.findall(r"<!-- run by tests/test_planning_page.py -->\n```python\n(.*?)```", TEXT, re.DOTALL)


def test_a_planner_and_an_objective_of_ones_own() -> None:
    (program,) = PROGRAMS
    names: dict[str, object] = {}
    exec(program, names)
    episode = names["episode"]
    assert len(episode.transitions) == 20  # type: ignore[attr-defined]
    again: dict[str, object] = {}
    exec(program, again)
    assert again["episode"].total_reward == episode.total_reward  # type: ignore[attr-defined]


def test_every_test_that_is_named_exists() -> None:
    table = TEXT[TEXT.index("| bug | test |") :]
    files: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        files[path.name] = files.get(path.name, "") + path.read_text()
    count = 0
    for cell in re.findall(r"\| [^|]+ \| ([^|]+) \|\n", table):
        current = ""
        for file, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", cell):
            current = file or current
            assert current in files
            assert not test or f"def {test}(" in files[current], (current, test)
            count += 1
    assert count >= 18


def test_every_choice_is_named() -> None:
    for section in ("planner", "objective", "propagation"):
        for name in SECTIONS[section].rows:
            assert f"`{name}`" in TEXT, name
