"""Writing so that nothing is lost, and saying in one line why it could not be done."""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Iterator

import safetensors

from bayes_mbrl.analysis.atomic import atomic_file
from bayes_mbrl.errors import UserError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextlib.contextmanager
def writing(path: pathlib.Path, consolation: str = "") -> Iterator[None]:
    """Turn a failure of the file system into a UserError that names `path` and ends with `consolation`."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number_in(str(error))
        reason = _REASONS.get(number or 0) or getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot write {path}: {reason}{consolation and '; ' + consolation}") from error


def flush_to_disk(path: pathlib.Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk and not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    flush_to_disk(path.parent)


def _number_in(message: str) -> int | None:
    """The system's error number in a message of safetensors, which raises no OSError."""
    found = re.search(r"os error (\d+)", message)
    return int(found[1]) if found else None
