"""Keeps a second server out of a database file, and explains why this server cannot use a file.

The lock is a flock on FILE.lock beside the file. SQLite's own locks are not used for this, so that other
programs can read. FILE.lock stays when the server ends: removing it could remove the lock of another server.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress


class StoreError(Exception):
    """The database cannot be used. The message is one line for the person who starts the server."""


class FileLock:
    """The lock of the only server of the database at `path`. Makes the file (mode 0600) if it is missing.

    Raises StoreError.
    """

    def __init__(self, path: str) -> None:
        real = os.path.realpath(path)  # so all names of a file share one lock
        directory = os.path.dirname(real)
        if not os.path.isdir(directory):
            raise StoreError(f"cannot open {path}: there is no directory {directory}")
        for file in (real, f"{real}.lock", f"{real}-wal", f"{real}-shm"):
            if os.path.exists(file):
                if not os.path.isfile(file):
                    what = "a directory" if os.path.isdir(file) else "not a regular file"
                    raise StoreError(f"cannot open {path}: {file} is {what}")
                require_access(file, os.R_OK | os.W_OK, path)
        require_access(directory, os.W_OK | os.X_OK, path)
        self._file = _open(f"{real}.lock", path)
        try:
            self._take(path)
            # Only now: if this process had the file open in SQLite, closing it would drop SQLite's locks.
            os.close(_open(real, path))
        except BaseException:
            os.close(self._file)
            raise

    def _take(self, path: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            process = f" (process {holder})" if holder else ""
            raise StoreError(f"{path} is in use by another server{process}") from None
        except OSError as error:
            raise StoreError(
                f"cannot lock {path}: its file system has no locks ({error.strerror}), like some network"
                " file systems; without them a second server could destroy it"
            ) from None
        with suppress(OSError):  # a full disk: then the message lacks the process id
            os.pwrite(self._file, f"{os.getpid():<19}\n".encode(), 0)  # over all of a longer number

    def release(self) -> None:
        """Releases the lock."""
        os.close(self._file)


def _open(path: str, database: str) -> int:
    """Opens a file; makes it (mode 0600) if it is missing."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot use {database}: {path} cannot be opened: {error.strerror}") from None


def require_access(path: str, access: int, database: str) -> None:
    """Raises StoreError if this process lacks a permission. The message names its user and the owner."""
    if os.access(path, access, effective_ids=True):
        return
    status, verb = os.stat(path), "write" if access & os.W_OK else "read"
    raise StoreError(
        f"cannot use {database}: user {os.geteuid()} may not {verb} {path}, which belongs to user"
        f" {status.st_uid} ({stat.filemode(status.st_mode)}), or whose file system is read-only"
    )
