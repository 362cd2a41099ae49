"""The program in docs/calibration.md runs and prints what the page says of it."""

import pathlib
import re
from typing import Any

import pytest

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "calibration.md").read_text(encoding="utf-8")


def test_the_program_finds_and_mends_what_is_too_sure(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    lines = capsys.readouterr().out.splitlines()
    assert "too narrow" in lines[0]
    assert lines[1] == "False"
    assert "about right" in lines[-1]
