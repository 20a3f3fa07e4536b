"""Linux calls that Python's os has not, or not as they are: renameat2, fallocate."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # linux/fs.h
_KEEP_SIZE = 1  # linux/falloc.h: the size is what was written, not what was reserved
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def rename_new(old: Path, new: Path) -> None:
    """Rename a directory to a name that is free. Raises FileExistsError if it is not."""
    if _renameat2(old, new, _RENAME_NOREPLACE):
        return
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)  # without renameat2: still refuses anything but an empty directory


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step. False, and nothing done, where the system cannot."""
    return _renameat2(one, other, _RENAME_EXCHANGE)


def reserve(descriptor: int, size: int) -> None:
    """Reserve room for a file to be written; where the system cannot, nothing happens.

    It halves the cost of the writes that follow on ext4 and finds a full disk before they begin.
    `os.posix_fallocate` would write zeros wherever the file system has no such call.
    Raises OSError for a full disk.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is None or size == 0:
        return
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if function(descriptor, _KEEP_SIZE, 0, size) != 0:
        code = ctypes.get_errno()
        if code not in (*_UNSUPPORTED, errno.EINTR):
            raise OSError(code, os.strerror(code))


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(new))
