"""docs/notebooks: each runs in a fresh kernel without an error or a warning, shows pictures, and leaves no file."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
EXECUTE = ROOT / "tests" / "support" / "execute_notebook.py"
HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def _executed(path: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """The notebook with its outputs."""
    with tempfile.TemporaryDirectory() as own:
        homes = ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
        done = subprocess.run(
            [sys.executable, EXECUTE, path, folder],
            env={**os.environ, **dict.fromkeys(homes, own)},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    executed: dict[str, Any] = json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))
    return executed


def _problems(notebook: dict[str, Any]) -> list[str]:
    """Errors, and all that went to stderr: warnings do."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                found.append(f"{output['ename']}: {output['evalue']} in\n{''.join(cell['source'])}")
            elif output.get("name") == "stderr":
                found.append(f"stderr: {''.join(output['text'])} of\n{''.join(cell['source'])}")
    return found


def _pictures(notebook: dict[str, Any]) -> int:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = _status()
    notebook = _executed(path, tmp_path)
    assert _problems(notebook) == []
    assert _pictures(notebook) >= 5
    assert not list((tmp_path / "working").iterdir()), "files were left in the working folder"
    assert _status() == before


def _status() -> set[str]:
    """Files of docs/, where notebooks lie and Jupyter would start."""
    return {str(path) for path in (ROOT / "docs").rglob("*") if "__pycache__" not in path.parts}


def test_what_goes_wrong_in_a_notebook_is_seen(tmp_path: pathlib.Path) -> None:
    cells = ('import warnings\n\nwarnings.warn("beware")', "print('fine')", "assert 1 > 2")
    text = HEADER + "".join(f"\n```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells)
    (tmp_path / "bad.md").write_text(text, encoding="utf-8")
    warning, error = _problems(_executed(tmp_path / "bad.md", tmp_path))
    assert "beware" in warning
    assert "AssertionError" in error


def test_every_notebook_is_one_for_jupyter_and_for_the_site() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "planning_under_uncertainty",
        "reading_a_posterior",
        "uncertainty_in_regression",
    ]
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(HEADER)
        assert f"docs/notebooks/{path.name}" in text, "how to open it in Jupyter"
        assert "\n## Try\n" in text
        assert "%matplotlib inline" in text
        assert "assert " in text, "what it says is carried by assertions"
