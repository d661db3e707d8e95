"""Deletes conversations and branches: they are gone at once, and their rows are removed in short pieces.

To delete a long conversation takes SQLite a second, in which nobody would be served. So it is only marked, in
the table: a session by its column `deleted`, a turn and all that follows from it by a row in `removals`. What
is marked is invisible, also after a kill. Rows are removed leaves first, so that what is left of a branch
still hangs from its mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

from chatbot.storage.database import Database, Locked

PIECE_SECONDS = 0.004
"""How long rows are removed before others have their turn; the last row and the commit come on top."""


class Removals(Database):
    """What is marked and not yet removed; here is a copy in memory of what the tables say of it."""

    def __init__(self, path: str, sync: str) -> None:
        super().__init__(path, sync)
        # By session: the marked turns, or None if the session itself is marked.
        self._gone: dict[str, set[int] | None] = {row[0]: None for row in self._all("marked_sessions")}
        # From a marked turn towards a leaf; it may name turns that are removed.
        self._way_down: list[int] = []
        for session_id, root in self._all("marked_turns"):
            self._turn_is_gone(session_id, root)

    @property
    def has_removals(self) -> bool:
        """Whether anything waits to be removed."""
        return bool(self._gone)

    def _deadline(self) -> float:
        return perf_counter() + PIECE_SECONDS

    async def remove_some(self) -> None:
        """Removes all that waits for it, in pieces; between two of them the event loop has its turn."""
        while self.has_removals:
            began = perf_counter()
            try:
                self.remove_piece()
            except Locked:
                await asyncio.sleep(0.05)
            else:
                await asyncio.sleep(perf_counter() - began)  # as long as it took: half of the time is others'

    def remove_piece(self) -> None:
        """Removes rows for PIECE_SECONDS, in one transaction."""
        done: list[tuple[str, int | None]] = []
        with self._transaction:
            deadline = self._deadline()
            for session_id, root in self._waiting():
                if root is None:
                    is_removed = self._remove_session(session_id, deadline)
                else:
                    is_removed = self._remove_turns(session_id, root, deadline)
                if not is_removed:
                    break
                done.append((session_id, root))
        for session_id, root in done:
            self._forget(session_id, root)

    def _waiting(self) -> Iterator[tuple[str, int | None]]:
        """What waits to be removed: a session, or a turn of it with all that follows."""
        for session_id, roots in self._gone.items():
            for root in roots or (None,):
                yield session_id, root

    def _remove_session(self, session_id: str, deadline: float) -> bool:
        """Removes turns of a marked session until `deadline`, at last itself; tells whether it is done."""
        while turns := self._all("some_turns", (session_id,)):
            for turn in turns:
                if perf_counter() >= deadline:
                    return False
                self._run("drop_turn", turn)
        self._run("drop_session", (session_id,))
        return True

    def _remove_turns(self, session_id: str, root: int, deadline: float) -> bool:
        """Removes a marked turn with all that follows until `deadline`; tells whether it is done."""
        way = self._way_down
        if not way or way[0] != root:
            way[:] = [root]
        while way:
            if perf_counter() >= deadline:
                return False
            if child := self._one("a_child", (session_id, way[-1])):
                way.append(child[0])
            else:
                self._run("drop_turn", (way.pop(),))
        self._run("unmark_turn", (root,))
        return True

    def _forget(self, session_id: str, root: int | None) -> None:
        """Takes note that all rows of a session or of a marked turn are removed."""
        if roots := self._gone.get(session_id):
            roots.discard(root)
        if not roots:
            self._gone.pop(session_id, None)

    def _turn_is_gone(self, session_id: str, root: int) -> None:
        roots = self._gone.setdefault(session_id, set())
        if roots is not None:
            roots.add(root)

    def _is_gone(self, session_id: str, seq: int) -> bool:
        """Whether a turn is marked, or follows from one that is, or is of a marked session."""
        if session_id not in self._gone:
            return False
        roots = self._gone[session_id]
        return roots is None or self._one("is_gone", {"seq": seq, "oldest": min(roots)}) is not None
