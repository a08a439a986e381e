"""Responses to bytes that are not a valid request, in the format of the API's errors."""

import json

from .errors import RETRY_AFTER

REASON_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
RETRYABLE = frozenset({408, 503})
"""Statuses after which a client may send the same request again."""
INVALID_HTTP = (
    "request: it is not valid HTTP/1.1; send a request line, headers and a body as RFC 9112 says"
)
INVALID_HANDSHAKE = (
    "request: the handshake is not valid; send an address and headers of at most 8,000 bytes of ASCII each,"
    " and at most 128 headers"
)


def error_response(status: int, sentence: str) -> bytes:
    """Return the bytes of an HTTP response that closes the connection."""
    body = json.dumps({"detail": sentence}).encode()
    lines = [f"HTTP/1.1 {status} {REASON_PHRASES[status]}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
    if status in RETRYABLE:
        lines.append(f"Retry-After: {RETRY_AFTER}")
    return "\r\n".join([*lines, "", ""]).encode() + body
