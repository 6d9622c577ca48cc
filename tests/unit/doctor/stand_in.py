"""A fake vLLM server or model hub: an HTTP server in a thread that answers GET requests of some paths."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Generator

Answers = dict[str, tuple[int, bytes]]


@contextlib.contextmanager
def answering(answers: Answers, *, key: str | None = None) -> Generator[str, None, None]:
    """Run the server, and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> bytes:
            status, body = answers.get(self.path.split("?")[0], (404, b"{}"))
            if key is not None and self.headers.get("authorization") != f"Bearer {key}":
                status, body = 401, b"{}"
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            # Headers that the hub's client requires of a file.
            self.send_header("etag", f'"{abs(hash(body)):040d}"')
            self.send_header("x-repo-commit", 40 * "a")
            if status == 404:
                is_known_repo = any(path.startswith(self.path.rsplit("/", 1)[0]) for path in answers)
                is_file = "/resolve/" in self.path and is_known_repo
                self.send_header("x-error-code", "EntryNotFound" if is_file else "RepoNotFound")
            self.end_headers()
            return body

        def do_GET(self) -> None:
            self.wfile.write(self._answer())

        def do_HEAD(self) -> None:
            self._answer()

        log_message: Callable[..., None] = lambda *_arguments: None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # shutdown() waits for one interval, which is half a second by default.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
