"""The server listens where it was told, at both addresses of localhost by one port."""

from __future__ import annotations

import errno
import socket

import pytest

from chatbot.web import accept
from chatbot.web.accept import open_sockets


@pytest.mark.parametrize(("port", "taken", "attempts"), [(0, 2, 3), (0, 10, 10), (8080, 1, 1)])
def test_another_free_port_is_tried_if_the_first_is_taken_at_the_other_address(
    monkeypatch: pytest.MonkeyPatch, port: int, taken: int, attempts: int
) -> None:
    tried = []

    def bind(address: str, port: int) -> socket.socket:
        if address == "::1":
            tried.append(port)
            if len(tried) <= taken:
                raise OSError(errno.EADDRINUSE, "in use")
        return socket.create_server(("127.0.0.1", 0))

    monkeypatch.setattr(accept, "_bind", bind)
    if taken >= attempts:
        with pytest.raises(OSError, match="in use"):
            open_sockets("localhost", port)
    else:
        for listening in open_sockets("localhost", port):
            listening.close()
    assert len(tried) == attempts
