"""The program in docs/shift.md runs as it stands, and finds the shift and the growth that it put in."""

import math
import pathlib
import re
from typing import Any

import pytest

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "shift.md").read_text(encoding="utf-8")


def test_the_program_finds_what_it_put_in(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "docs/shift.md", "exec"), names)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == [
        str(names["test"].statistic),
        str(names["test"].p_value),
        str(names["test"].smallest_p),
    ]
    assert names["test"].num_groups == (10, 15)
    assert names["test"].p_value < 0.05  # shifted by 0.3
    assert not names["test"].caution
    error = names["errors"].mean_error
    assert float(error[19] / error[0]) == pytest.approx(math.exp(0.2 * 19), rel=0.2)
    assert int(names["errors"].diverged.sum()) == 0
    found = re.search(r"λ = (\S+)", last)
    assert found is not None
    assert float(found[1]) == pytest.approx(0.2, abs=0.02)
