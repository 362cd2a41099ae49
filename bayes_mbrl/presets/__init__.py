"""Configurations by name, as YAML files beside this one: `bayes-mbrl run --config pets-small`.

The first line of a file says what it is; a further comment says whether it was run, and how, or why not.
"""

import pathlib
from collections.abc import Mapping

from bayes_mbrl.errors import UserError

_FOLDER = pathlib.Path(__file__).parent


def presets() -> Mapping[str, pathlib.Path]:
    """Name → file."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"), key=lambda path: path.stem)}


def summary(path: pathlib.Path) -> str:
    """The first line of a preset, which is a comment."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def find_file(file: pathlib.Path) -> pathlib.Path:
    """The file itself, or the preset of this name where there is no such file. Raises UserError without either."""
    known = presets()
    if file.is_file() or (file.exists() and str(file) not in known):
        return file
    if str(file) not in known:
        raise UserError(f"{file} does not exist, and no preset is called so: presets are {', '.join(known)}")
    return known[str(file)]
