"""What a user is told: input that cannot be used, and files that cannot be read or written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CaseError(Exception):
    """Input that cannot be used; the message names the case or file, what was expected and what to do."""


# What the operating system refuses, and what to do about it.
WORDS = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.EACCES: "no permission to read or write it; ask its owner, or choose another path",
    errno.EPERM: "no permission to change it; ask its owner, or choose another path",
    errno.EROFS: "lies on a file system that can only be read; choose another folder",
    errno.EISDIR: "is a folder, where a file is expected",
    errno.ENOTDIR: "a part of this path is a file, where a folder is expected",
    errno.EEXIST: "exists already and is not a folder, but a file or a link that leads nowhere; move it away",
    errno.ENOTEMPTY: "is a folder that is not empty; move its contents away",
    errno.ELOOP: "symbolic links lead in a circle",
    errno.ENAMETOOLONG: "the name is too long for the file system; use a shorter one",
    errno.ENOSPC: "no space is left on the disk, or in your quota; free some, and run again",
    errno.EDQUOT: "your quota of the disk is used up; free some space, and run again",
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "the machine has too many files open",
    errno.EIO: "the disk or file server failed to read or write it",
    errno.ESTALE: "the file server lost it; check the mount, and run again",
    errno.ENOMEM: "the machine has not enough memory",
}
# Errors of a write that has begun.
OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE)


def explained(error: OSError) -> str:
    """An error of the operating system in plain words: the file, what happened, and what to do."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    words = WORDS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return ": ".join([" → ".join(names), words]) if names else words


def plain_words(error: BaseException) -> str:
    """An error that is no fault of the program, without its traceback; empty for any other."""
    if isinstance(error, CaseError):
        return str(error)
    return explained(error) if isinstance(error, OSError) else ""


@contextmanager
def writing(temporary: Path, path: Path) -> Iterator[None]:
    """Let what the disk refuses in the block name the final path, in whatever way a library reports it.

    Args:
        temporary: file or folder that the block writes.
        path: its final name.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None) or _number_in(str(error))
        named = str(getattr(error, "filename", None) or temporary)
        if number in OF_DISK and named.startswith(str(temporary)):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _number_in(text: str) -> int:
    """The number of the system's error in a message of HDF5 or, as good as, torch and NumPy; 0 for others."""
    if found := re.search(r"errno = (\d+)", text):
        return int(found[1])
    return errno.ENOSPC if "inline_container" in text or re.search(r"requested and \d+ written", text) else 0
