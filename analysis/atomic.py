"""Write a file whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, with its suffix, that takes its place when the block ends well.

    It is the same path every time, so that what a killed process left over goes away with the next.
    What was written reaches the disk before the one step that renames it, so that a reader, or a machine that loses
    power, sees the old file or the new one. When the block raises, the old file stays and nothing is left over.
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
