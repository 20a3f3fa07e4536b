"""One output file: counted, hashed on the way if asked, and on the disk before it is closed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from normsurgery.checkpoint.files import FileRange, opened, read_into, truncated
from normsurgery.checkpoint.system import reserve
from normsurgery.checkpoint.text import shown
from normsurgery.errors import ResourceError, SurgeryError

BUFFER_BYTES = 384 << 10  # fits the second-level cache: read, hash and write touch it there
# The kernel copies through a pipe of 64 KiB: from a multiple of that it takes 0.7 of the time.
_PIPE_BYTES = 64 << 10
_COPY_BYTES = 64 << 20  # between two calls of progress
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


class Sink:
    """Context manager; leaving it without an error fsyncs and checks the file's size."""

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        size: int,
        hashed: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.name, self.bytes = name, 0
        self.buffer = bytearray(BUFFER_BYTES)
        self._digest = hashlib.sha256() if hashed else None
        self._progress = progress
        with self._disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
            try:
                reserve(self._descriptor, size)
            except OSError:
                os.close(self._descriptor)
                raise

    @property
    def sha256(self) -> str | None:
        """In hex; None unless hashed."""
        return self._digest.hexdigest() if self._digest is not None else None

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with self._disk_errors():
                    os.fsync(self._descriptor)
                self._expect(os.fstat(self._descriptor).st_size, self.bytes, self.name)
        finally:
            os.close(self._descriptor)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data)
        if self._digest is not None:
            self._digest.update(view)
        while view:
            with self._disk_errors():
                count = os.write(self._descriptor, view)
            self._count(count)
            view = view[count:]

    def copy(self, run: FileRange) -> None:
        """Append a run of a file, inside the kernel unless it is to be hashed."""
        if self._digest is None:
            head = min(run.length, -run.offset % _PIPE_BYTES)
            self._read_and_write(replace(run, length=head))
            run = replace(run, offset=run.offset + head, length=run.length - head)
            done = self._copied_by_kernel(run)
            run = replace(run, offset=run.offset + done, length=run.length - done)
        self._read_and_write(run)

    def _read_and_write(self, run: FileRange) -> None:
        for piece in read_into(run, self.buffer):
            self.write(piece)

    def expect(self, count: int, what: str) -> None:
        """Raise SurgeryError unless so many bytes have been written by now."""
        self._expect(self.bytes, count, what)

    def _copied_by_kernel(self, run: FileRange) -> int:
        done = 0
        if not hasattr(os, "copy_file_range"):
            return done
        with opened(run.path, run.stamp) as source:
            while done < run.length:
                step = min(_COPY_BYTES, run.length - done)
                try:
                    count = os.copy_file_range(
                        source, self._descriptor, step, run.offset + done
                    )  # fmt: skip
                except OSError as error:
                    if error.errno in _NO_KERNEL_COPY:
                        return done
                    raise self._translated(error) from None
                if count == 0:
                    raise truncated(run.path)
                self._count(count)
                done += count
        return done

    def _count(self, count: int) -> None:
        self.bytes += count
        if self._progress is not None:
            self._progress(count)

    @staticmethod
    def _expect(found: int, wanted: int, what: str) -> None:
        if found != wanted:
            raise SurgeryError(
                f"internal error: {shown(what)} is at {found:,} bytes where {wanted:,} were due",
                "please report this, with the command and the model",
            )

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translated(error) from None

    def _translated(self, error: OSError) -> ResourceError:
        if error.errno in _FULL:
            return ResourceError(
                f"the disk is full: {shown(self.name)} stopped at {self.bytes:,} bytes",
                "free some space, or put the output on another disk; nothing was left behind",
            )
        return ResourceError(
            f"{shown(self.name)} could not be written: {error.strerror}",
            "check the disk; nothing was left behind",
        )
