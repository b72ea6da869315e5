"""A web server of this machine that sends parts of files, or only whole ones."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; parts of them where the server says so; `/secret` to nobody, and `/broken` is."""

    sends_parts = True
    requests: list[str]

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        path = Path(self.translate_path(self.path))
        if self.path.startswith("/secret"):
            self.send_error(403)
        elif self.path.startswith("/broken"):
            self.send_error(500)
        elif path.is_file():
            content, wanted = path.read_bytes(), self.headers.get("Range")
            total = len(content)
            if wanted and self.sends_parts:
                first, last = wanted.removeprefix("bytes=").split("-")
                content = content[int(first) : int(last) + 1 if last else None]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{total}")
            else:
                self.send_response(200)
            if self.sends_parts:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_content:
                self.requests.append(f"{self.path} {wanted or 'all'}")
                with contextlib.suppress(ConnectionError):  # nobody waits for the rest
                    self.wfile.write(content)
        elif with_content:
            super().do_GET()
        else:
            super().do_HEAD()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, type[Handler]]]:
    """Address of a server of a folder, and its handler, whose settings may be changed."""
    handler = type("ItsHandler", (Handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
