"""The programs of docs/uncertainty.md run, on a run like that of the reader."""

import pathlib
import re

import pytest
from toy_runs import start

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "uncertainty.md"
PROGRAMS = re.findall(
    r"<!-- run by tests/test_uncertainty_page.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL
)


def test_the_programs_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    start(tmp_path / "runs" / "my-run", "LinearGaussian-v0", "posterior.num_steps=100")
    capsys.readouterr()
    first, second = PROGRAMS
    names: dict[str, object] = {}
    exec(first, names)
    assert names["variance"].epistemic.shape == (200, 2)  # type: ignore[attr-defined]
    assert abs(float(names["variance"].epistemic.mean()) - 1) < 0.1  # type: ignore[attr-defined]
    exec(second, names)
    parts = names["parts"]
    assert parts.mean.shape == (10, 3)  # type: ignore[attr-defined]
    assert (parts.variance.aleatoric[-1] > 0).all()  # type: ignore[attr-defined]
    assert len(capsys.readouterr().out.splitlines()) >= 6
