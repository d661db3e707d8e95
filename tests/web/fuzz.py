"""Bytes that are nearly HTTP, from a seed: what a fuzzer sends to the server's parsers."""

from __future__ import annotations

import random
from collections.abc import Iterator

METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT", b"G\xc3\x89T", b"get", b"")
PATHS = (
    *b"/api/health /json /upload /pieces?mb=0 /%ff /\xff\xfe /\xed\xa0\x80".split(),
    *b"/api/health?a=%ff&\xe2\x82\xac * http://x/api/health http://[::1/ // /% /%zz x:1".split(),
    b"",
)
NAMES = (
    *b"Expect Host Origin Content-Length Transfer-Encoding Connection Upgrade Authorization".split(),
    *b"X-Request-ID Cookie Content-Type Content-Encoding Access-Control-Request-Method".split(),
    *b"Access-Control-Request-Headers If-None-Match Last-Event-ID \xffName N\xc3\xa4me".split(),
    b"",
)
VALUES = (
    *(b"", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"100-continue", b"100-contin\xfce", b"x"),
    *(b"0", b"2", b"-1", b"+2", b"2\xb2", b"99999999999999999999", b"chunked", b"gzip, chunked"),
    *(b"close", b"keep-alive", b"upgrade", b"websocket", b"h2c", b"application/json; charset=\xff"),
    *(b'text/plain; boundary="', b"https://\xe4.example", b'"\xff"', b"a\x00b", b"a\x7fb"),
    *(b" folded\r\n more", b"a" * 9000),
)
BODIES = (
    *(b"{}", b"[1,2]", b"2\r\n{}\r\n0\r\n\r\n", b"ff;\xff=\xff\r\n", b"zz\r\n", b"\xff\xfe"),
    *(b'{"a":"\\ud800"}', b"0\r\n\xff: \xff\r\n\r\n", b""),
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1\xff", b"")


def requests(seed: int) -> Iterator[bytes]:
    """Requests for ever, the same for the same seed; half of them are wrong in their values at most."""
    draw = random.Random(seed)
    while True:
        wild = draw.random() < 0.5
        parts = [part if wild else part[:3] for part in (METHODS, PATHS, VERSIONS)]
        lines = [b" ".join(map(draw.choice, parts)), *[b"Host: x"] * (not wild or draw.random() < 0.9)]
        for _ in range(draw.randrange(4)):
            name = draw.choice(NAMES if wild else NAMES[5:-3])
            lines.append(name + (draw.choice((b": ", b":", b"")) if wild else b": ") + draw.choice(VALUES))
        body = draw.choice(BODIES)
        if not wild or draw.random() < 0.3:
            lines.append(b"Content-Length: %d" % len(body))
        data = (draw.choice((b"\r\n", b"\n")) if wild else b"\r\n").join([*lines, b"", b""]) + body
        if wild and draw.random() < 0.5:
            place = draw.randrange(len(data))
            data = data[:place] + bytes(draw.choices(range(256), k=draw.randrange(4))) + data[place + 1 :]
        yield data
