"""docs/diagnostics.md: its programs run as they stand."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "diagnostics.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("number", "file", "words"), [(0, "posterior.nc", "PSIS-LOO"), (1, "sbc.png", "0 of 10 quant")]
)
def test_a_program_of_the_page(
    number: int,
    file: str,
    words: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(PROGRAMS[number], str(PAGE), "exec"), {})
    assert words in capsys.readouterr().out
    assert (tmp_path / file).stat().st_size > 1_000


def test_all_programs_are_run() -> None:
    assert len(PROGRAMS) == 2
