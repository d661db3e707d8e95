"""Server-sent events: bytes to events and back. No I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

MAX_LINE = 1024 * 1024 + len(b"data: ")
"""The longest line, and the longest event, in bytes; the LLM's largest honest chunk is far below it."""

KEEP_ALIVE = b": keep-alive\n"
"""A comment with no blank line after it: after an `id:` line a blank one would dispatch an event, empty
for clients that forget to drop it (the OpenAI Python library does)."""

DONE = b"data: [DONE]\n\n"


class TooLarge(ValueError):
    """A line or an event over MAX_LINE."""


class Decoder:
    """Cuts a stream of bytes into the data of its events.

    Lines end with LF, CR or CRLF; an event's data lines are joined with LF; comments and all other
    fields are passed over, and so are events without data. The bytes may come cut anywhere;
    `is_between` says that nothing of an event has come since the last one ended.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the pieces of a line that has not ended
        self._data: list[bytes] = []  # the data lines of an event that has not ended
        self._size = 0  # of both
        self._after_cr = False
        self._at_start = True
        self.is_between = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Takes what has come and returns the data of the events that it completes.

        Raises TooLarge.
        """
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._after_cr and chunk:  # the LF of a CRLF that was cut in two
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        tail = lines.pop()
        if lines and self._line:
            lines[0] = b"".join(self._line) + lines[0]
            self._line.clear()
            self._size = sum(map(len, self._data))
        events = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data.clear()
                    self._size = 0
            elif line.startswith(b"data:"):
                self._grow(line)
                self._data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
            elif line == b"data":
                self._grow(line)
                self._data.append(b"")
            elif len(line) > MAX_LINE:
                raise TooLarge
        if tail:
            self._grow(tail)
            self._line.append(tail)
        self.is_between = not (self._line or self._data or self._after_cr or self._at_start)
        return events

    def flush(self) -> list[bytes]:
        """The stream has ended: returns the data of a last event that no blank line ended.

        The standard drops it; some servers forget the blank line, and what was cut short is no
        JSON and found out as such.
        """
        return self.feed(b"\n\n")

    def _grow(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_LINE:
            raise TooLarge

    def _without_bom(self, chunk: bytes) -> bytes:
        """Drops a byte order mark from the head of the stream, which may come one byte at a time."""
        head = b"".join(self._line) + chunk
        if len(head) < 3 and b"\xef\xbb\xbf".startswith(head):
            self._line = [head] if head else []
            return b""
        self._at_start = False
        self._line.clear()
        return head.removeprefix(b"\xef\xbb\xbf")


def frame(offset: int, payload: bytes) -> bytes:
    """One event of our own streams: `offset` counts the characters of text delivered with it."""
    return b"id: %d\ndata: %b\n\n" % (offset, payload)
