"""Decodes server-sent events: bytes to the data of events. No I/O.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

It differs from the standard on purpose, because real servers do. A last event may lack its blank line. Bare
JSON is an event (proxies put an error between the events), and so is llama-server's `error: {…}`. Events
without blank lines between them are separated, because no JSON continues with "{" after "}".
"""

from __future__ import annotations

MAX_LINE = 1024 * 1024 + len(b"data: ")
"""The maximum length of a line, and of an event, in bytes. Real chunks are far smaller."""


class TooLarge(ValueError):
    """A line or an event is longer than MAX_LINE."""


class Decoder:
    """Splits a stream of bytes, which may arrive in any pieces, into the data of its events.

    Lines end with LF, CR or CRLF; an event's data lines are joined with LF. `is_between` is true when no part
    of the next event has arrived.
    """

    __slots__ = ("_data", "_rest", "_size", "is_between")

    def __init__(self) -> None:
        self._rest: bytes | bytearray = b""  # a line that has not ended
        self._data: list[bytes] = []  # the data lines of an event that has not ended
        self._size = 0  # of the data lines, in bytes
        self.is_between = True

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the bytes that have arrived; returns the data of complete events. Raises TooLarge."""
        if self._rest:
            if b"\n" not in data and b"\r" not in data and self._rest[-1:] != b"\r":
                self._rest += data  # appends in place: a long line is not copied for each piece
                if self._size + len(self._rest) > MAX_LINE:
                    raise TooLarge
                return []
            data = bytes(self._rest) + data
        half = b"\r" if data.endswith(b"\r") else b""  # perhaps the first half of a CRLF
        data = data.removesuffix(half)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        events: list[bytes] = []
        for line in lines:
            if not line:
                events += self._ended()
            elif line.startswith(b"data:") or line == b"data":
                value = line[6:] if line.startswith(b" ", 5) else line[5:]
                if self._data and self._data[-1].endswith(b"}") and value.startswith((b"{", b"[DONE]")):
                    events += self._ended()
                self._data.append(value)
                self._size += len(line)
            elif line[:1] == b"{" and line[-1:] == b"}" and (not self._data or self._data[-1][-1:] == b"}"):
                events += [*self._ended(), line]
            elif line[:1] in b' \t"{}[]' and (self._data or [line])[0][:1] in b"{[":
                self._data.append(line)  # a part of JSON over several lines
                self._size += len(line)
            elif line.startswith(b"error:"):
                events.append(b'{"error":%b}' % line[6:])
            if max(self._size, len(line)) > MAX_LINE:
                raise TooLarge
        self._rest = bytearray(rest + half) if rest or half else b""
        if self._size + len(rest) > MAX_LINE:
            raise TooLarge
        self.is_between = not (self._rest or self._data)
        return events

    def _ended(self) -> list[bytes]:
        """Ends the event, if one has begun, and returns its data in a list."""
        data, self._data, self._size = self._data, [], 0
        return [b"\n".join(data)] if data else []

    def flush(self) -> list[bytes]:
        """Ends the stream: returns the data of a last event, which is invalid JSON if it was cut off."""
        return self.feed(b"\n\n")
