"""Keeps where the LLM's chunks ended in a reply: about a byte a chunk, as it is stored."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

_STEP = 1024
"""A reader remembers its place every so many chunks, so that the next one need not begin at the beginning."""


class ChunkEnds:
    """The lengths of chunks in characters, each as a varint (LEB128: seven bits a byte, the lowest first)."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)
        self._places = [0]  # in the data, after each _STEP chunks that a reader has passed
        self._offsets = [0]  # in the reply, at those places

    def add(self, length: int) -> None:
        """Adds a chunk at the end."""
        while length > 0x7F:
            self._data.append(length & 0x7F | 0x80)
            length >>= 7
        self._data.append(length)

    def after(self, start: int) -> Iterator[int]:
        """The offsets behind `start` at which chunks end, in order."""
        known = bisect_right(self._offsets, start) - 1
        place, offset = self._places[known], self._offsets[known]
        data = self._data
        count = 0
        while place < len(data):
            length = shift = 0
            while (byte := data[place]) > 0x7F:
                length |= (byte & 0x7F) << shift
                shift += 7
                place += 1
            offset += length | byte << shift
            place += 1
            count += 1
            if count % _STEP == 0 and place > self._places[-1]:
                self._places.append(place)
                self._offsets.append(offset)
            if offset > start:
                yield offset

    def __bytes__(self) -> bytes:
        return bytes(self._data)
