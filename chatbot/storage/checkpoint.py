"""Makes checkpoints: copies the WAL into the database file, in a thread with its own connection.

A checkpoint on the connection that writes would block the event loop while the disk works. A PASSIVE
checkpoint waits for nobody and blocks nobody. But under load there are always new writes in the WAL, so the
WAL only grows. So a large WAL is truncated (TRUNCATE). This locks the file for a moment, in which a write
raises Locked and is retried. As long as a reader needs old pages, the WAL cannot be truncated.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two checkpoints."""

LARGE = 16 * 2**20
"""The size in bytes from which a WAL is truncated; on a small disk, a sixteenth of the disk."""

WAIT = 0.05
"""Seconds that a TRUNCATE waits for a write or a reader to end; new writes raise Locked meanwhile."""

WARN = 256 * 2**20
"""The size in bytes from which the log says that a reader keeps the WAL growing, once until it is small."""


class Checkpoints:
    """Makes checkpoints of the database at `path` until stop()."""

    def __init__(self, path: str) -> None:
        real = os.path.realpath(path)
        self._wal = f"{real}-wal"
        self._large = min(LARGE, shutil.disk_usage(os.path.dirname(self._wal)).total // 16)
        self._is_warned = False
        self._connection = sqlite3.connect(real, timeout=WAIT, isolation_level=None, check_same_thread=False)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def wal_bytes(self) -> int:
        """The size of the WAL."""
        try:
            return os.path.getsize(self._wal)
        except OSError:
            return 0

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        failure = ""
        while not self._stopped.wait(INTERVAL):
            try:
                self._fold()
                failure = ""
            except sqlite3.Error as error:
                if str(error) != failure:  # log each failure once: the log must not fill a full disk
                    log.warning("the WAL could not be folded back: %s", error)
                failure = str(error)

    def _fold(self) -> None:
        fold = "PRAGMA wal_checkpoint(PASSIVE)"
        _, frames, folded = self._connection.execute(fold).fetchone()
        size = self.wal_bytes()
        if size < self._large:
            self._is_warned = False
            return
        if folded == frames:  # all of the WAL is in the database file: no reader needs older pages
            # Copy what was written meanwhile, so that TRUNCATE locks the file for less time.
            self._connection.execute(fold).fetchone()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        elif size >= WARN and not self._is_warned:
            self._is_warned = True
            log.warning("the WAL has grown to %d MB: another process is reading for long", size >> 20)
