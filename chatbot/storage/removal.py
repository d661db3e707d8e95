"""Deletes conversations and branches: they are gone at once, and their rows are removed in short pieces.

To delete a long conversation takes SQLite a second, in which nobody would be served. So what is not removed
within a few milliseconds is marked: a session by its column `deleted`, a turn and all that follows from it by
a row in `removals`. What is marked is invisible, also after a kill. Rows are removed leaves first, so that
what is left of a branch still hangs from its mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from chatbot.storage.database import Database, Locked

PIECE_SECONDS = 0.004
"""How long rows are removed before others have their turn; the last row and the commit come on top."""

ALL = 0
"""In place of a turn's number: the whole session."""


class Removals:
    """What is marked and not yet removed; here is a copy in memory of what the tables say of it."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._marked: dict[str, set[int]] = {}  # by session: turns of it, or ALL
        # By session that has marks: the turns that were found to be alive. To walk up from each would take
        # long where many are read.
        self._alive: dict[str, set[int]] = {}
        # From a marked turn towards a leaf; it may name turns that are removed.
        self._way_down: list[int] = []
        for session_id, root in self._db.rows("marked"):
            self._marked.setdefault(session_id, set()).add(root)

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be removed."""
        return bool(self._marked)

    def include(self, session_id: str, seq: int = ALL) -> bool:
        """Whether a session is marked, or a turn of it or one that this follows."""
        roots = self._marked.get(session_id)
        if not roots or ALL in roots:
            return bool(roots)
        alive = self._alive.setdefault(session_id, set())
        if seq in alive:
            return False
        path = {row[0] for row in self._db.rows("path", (seq, min(roots) - 1))}
        if path & roots:
            return True
        alive |= path
        return False

    @contextmanager
    def deleting(self) -> Iterator[Callable[[str, int], bool]]:
        """A transaction, and a function that deletes a turn of a session with all that follows, or ALL.

        As many rows are removed at once as PIECE_SECONDS allow; the function tells whether none is left.
        """
        removed: dict[tuple[str, int], bool] = {}
        with self._db.transaction():
            deadline = perf_counter() + PIECE_SECONDS

            def delete(session_id: str, root: int) -> bool:
                is_removed = self._remove(session_id, root, deadline)
                removed[session_id, root] = is_removed
                if not is_removed:  # what is short needs no mark
                    mark = ("mark_session", (session_id,)) if root == ALL else ("mark_turn", (root,))
                    self._db.run(*mark)
                return is_removed

            yield delete
        for (session_id, root), is_removed in removed.items():  # now that it is committed
            roots = self._marked.setdefault(session_id, set())
            self._alive.pop(session_id, None)
            if not is_removed:
                roots.add(root)
            elif root == ALL:
                roots.clear()
            else:
                roots.discard(root)
            if not roots:
                del self._marked[session_id]

    def _remove(self, session_id: str, root: int, deadline: float) -> bool:
        """Removes the rows of what is deleted until `deadline`; tells whether none is left."""
        way = self._way_down
        if root != ALL and way[:1] != [root]:
            way[:] = [root]
        while perf_counter() < deadline:
            if root == ALL:
                rows = ("drop_any_turn", "drop_any_background")
                if not any(self._db.run(name, (session_id,)).rowcount for name in rows):
                    self._db.run("drop_session", (session_id,))
                    return True
            elif child := self._db.one("some_children", (session_id, way[-1], 1)):
                way.append(child[0])
            else:
                self._db.run("drop_turn", (way.pop(),))
                if not way:
                    return True
        return False

    def remove_piece(self) -> None:
        """Removes rows for PIECE_SECONDS, in one transaction. Raises Locked."""
        with self.deleting() as delete:
            for session_id, roots in self._marked.items():
                for root in roots:
                    if not delete(session_id, root):
                        return

    async def remove_all(self) -> None:
        """Removes all that waits for it, in pieces; between two of them the event loop has its turn."""
        while self.waiting:
            began = perf_counter()
            try:
                self.remove_piece()
            except Locked:
                await asyncio.sleep(0.05)
            else:
                await asyncio.sleep(perf_counter() - began)  # as long as it took: half of the time is others'
