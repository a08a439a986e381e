"""The outside of the example: a monitoring system with alerts, and a pager that prints its pages.

Run it with a port, such as `python3 outside.py 9000`. GET /alerts lists the alerts, POST /alerts adds one, and POST /pages
takes a page.
"""

import json
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ALERTS: list[dict[str, str]] = []


class Outside(BaseHTTPRequestHandler):
    """Answers the poller, the tool, and requests by hand."""

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        """List the alerts."""
        self._answer({"alerts": ALERTS})

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        """Add an alert, or print a page."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/alerts":
            now = datetime.now(UTC).isoformat()
            ALERTS.append({"id": f"alert-{len(ALERTS)}", "changed_at": now, **body})
        else:
            print("Page", self.headers["Idempotency-Key"], json.dumps(body), flush=True)
        self._answer({})

    def _answer(self, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing about requests."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Outside)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
