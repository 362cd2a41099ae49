"""Executes a notebook in a fresh kernel: `python execute_notebook.py NOTEBOOK.md FOLDER`, executed.ipynb into FOLDER.

A process of its own, since a kernel's machinery warns and draws random numbers. The kernel talks through sockets in the
file system, not through ports. An error in a cell ends the execution and stands in the notebook, as in Jupyter.
"""

import pathlib
import sys
import tempfile

import nbformat
from jupyter_client.manager import AsyncKernelManager
from myst_nb.core.read import read_myst_markdown_notebook
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def execute(path: pathlib.Path, folder: pathlib.Path, sockets: str) -> None:
    """Run all cells in the new folder `folder`/working; `sockets` is a short path, since the system limits these."""
    notebook = read_myst_markdown_notebook(path.read_text(encoding="utf-8"))
    working = folder / "working"
    working.mkdir()
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel"),
        timeout=300,
        resources={"metadata": {"path": str(working)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(error, file=sys.stderr)
    nbformat.write(notebook, folder / "executed.ipynb")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as sockets:
        execute(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sockets)
