"""Folds the WAL back into the database file, in a thread, by a connection of its own.

Done by the connection that writes, a checkpoint would keep everybody waiting for the disk. PASSIVE waits for
nobody and keeps nobody waiting, but under load it never finds the WAL at rest, which then only grows. So a
large WAL is cut short (TRUNCATE): that locks the file for a moment, in which a write raises Locked and is
tried again. While a reader needs old pages nothing can be cut.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import threading

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""How often the thread looks, in seconds."""

LARGE = 16 * 2**20
"""From this size on, in bytes, a WAL is cut short; on a small disk from a sixteenth of it."""

WAIT = 0.05
"""For how long a cut waits for a write or a reader to end, and keeps new writes out."""

WARN = 256 * 2**20
"""From this size on the log says, once for each time, that a reader keeps the WAL growing."""


class Checkpoints:
    """Makes the checkpoints of the database at `path` until `stop`."""

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
        while not self._stopped.wait(INTERVAL):
            try:
                self._fold()
            except sqlite3.Error as error:
                log.warning("the WAL could not be folded back: %s", error)

    def _fold(self) -> None:
        fold = "PRAGMA wal_checkpoint(PASSIVE)"
        _, frames, folded = self._connection.execute(fold).fetchone()
        size = self.wal_bytes()
        if size < self._large:
            self._is_warned = False
            return
        if folded == frames:  # no reader needs older pages
            # Once more for what was written meanwhile, so that the next step locks the file for less time.
            self._connection.execute(fold).fetchone()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        elif size >= WARN and not self._is_warned:
            self._is_warned = True
            log.warning("the WAL has grown to %d MB: another process is reading for long", size >> 20)
