"""HTTP on loopback: some bytes, or a transport stream that is paced like a camera and has no end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serving(body: bytes, kind: str = "video/mp2t", rate: float | None = None) -> Iterator[str]:
    """Serves `body` under any path; with a `rate` (bytes/s) in pieces and without saying how long it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if rate is None:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                if rate is None:
                    self.wfile.write(body)
                    return
                for at in range(0, len(body), 1880):
                    self.wfile.write(body[at : at + 1880])
                    time.sleep(1880 / rate)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
