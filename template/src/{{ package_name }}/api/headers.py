"""Security headers of every response."""

from collections.abc import Iterable

type Headers = list[tuple[bytes, bytes]]

DENY_ALL = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger UI, which FastAPI serves at /docs in development, loads files of a CDN and an inline script.
DOCS_POLICY = (
    b"default-src 'none'; connect-src 'self'; img-src https://fastapi.tiangolo.com data:;"
    b" script-src https://cdn.jsdelivr.net 'unsafe-inline';"
    b" style-src https://cdn.jsdelivr.net 'unsafe-inline';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CSP = b"content-security-policy"
HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (CSP, DENY_ALL),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
DOCS_HEADERS: Headers = [(name, DOCS_POLICY if name == CSP else value) for name, value in HEADERS]


def with_defaults(given: Iterable[tuple[bytes, bytes]], headers: Headers) -> Headers:
    """Return the headers of a response, with defaults for those that the route did not set."""
    found = list(given)
    names = {name for name, _ in found}
    return [*found, *(each for each in headers if each[0] not in names)]
