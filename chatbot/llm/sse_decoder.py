"""Server-sent events: bytes to the data of events. No I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

Deliberately unlike the standard, for servers that were seen to do so: a last event without its blank line
counts; a line of bare JSON is an event (proxies put an error between the events), and so is llama-server's
`error: {…}`.
"""

from __future__ import annotations

MAX_LINE = 1024 * 1024 + len(b"data: ")
"""The longest line, and the longest event, in bytes; the LLM's largest honest chunk is far below it."""


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
        self.is_between = False

    def feed(self, data: bytes) -> list[bytes]:
        """Takes what has come and returns the data of the events that it completes. Raises TooLarge."""
        if self._after_cr and data:  # the LF of a CRLF that was cut in two
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines and self._line:
            lines[0] = b"".join(self._line) + lines[0]
            self._line.clear()
            self._size = sum(map(len, self._data))
        events: list[bytes] = []
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
            elif line.startswith(b"{") and not self._data:
                events.append(line)
            elif line.startswith(b"error:"):
                events.append(b'{"error":%b}' % line[6:])
        if tail:
            self._grow(tail)
            self._line.append(tail)
        self.is_between = not (self._line or self._data or self._after_cr)
        return events

    def flush(self) -> list[bytes]:
        """The stream has ended: returns the data of a last event that no blank line ended.

        What was cut short is no JSON and found out as such.
        """
        return self.feed(b"\n\n")

    def _grow(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_LINE:
            raise TooLarge
