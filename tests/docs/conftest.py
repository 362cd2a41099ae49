import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[2] / "docs"))  # docsite is a tool, not a part of the package
