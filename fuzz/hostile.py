"""What no honest client sends: texts, numbers, times and JSON, as Hypothesis generates them.

JSON is made as text and not from values, since duplicate keys, `NaN` and half characters are no values.
"""

import json
from collections.abc import Callable
from typing import Any, overload

from hypothesis import strategies as st

TEXTS = (
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "a/b",
        "//",
        "../x",
        "a/./b",
        "%2f",
        "%2F..%2f",
        "%00",
        "%",
        "?a=b#c",
        "+",
    ),
    *(
        "dlq",
        "dlq/x",
        "dlq/retry",
        "batch",
        "stream",
        "timer:minute:1",
        "timer:",
        "ws:x",
        "null",
        "NaN",
    ),
    *(
        "\0",
        "a\0b",
        "\n",
        "a\r\nX-Forged: 1",
        "\t",
        "\x1b[31mred\x1b[0m",
        "\x7f",
        "\x85",
        "\x9b31m",
    ),
    *(
        "\u202eevil",
        "\u2066a\u2069",
        "\u200b",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\ufdd0",
        "\U000e0041",
    ),
    *("\ud83d", "a\udfffb", "\ud800\ud800", "\udcff", "\U0001f600", "e\u0301", "\u0130", "\uff0f"),
    *(
        "' OR 1=1 --",
        '"; DROP TABLE events;',
        "${jndi:ldap://x}",
        "{0} {x!r}",
        "{",
        "%s%n",
        "<b>&amp;",
    ),
    *("error", "a fail and an exception", "x" * 200, "x" * 201, "\u20ac" * 200),
)
STORABLE_NUMBERS = ("0", "-1", "1.0", "-0.0", "1e2", "1e16", "6.02e23", "1e300", "5e-324", "9" * 30)
"""Numbers that must be read as they were sent."""
NUMBERS = (
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1",
        "1.0",
        "1e2",
        "1E+2",
        "1e16",
        "6.02e23",
        "1e300",
        "5e-324",
        "1e-400",
    ),
    *(
        "1.7976931348623157e308",
        "0.30000000000000004",
        "2147483648",
        "9223372036854775808",
        "9" * 400,
    ),
    *("100000000000000000000.5", "9" * 5_000, "1e400", "-1e400", "NaN", "Infinity", "-Infinity"),
    *("01", "+1", "1.", ".5", "0x10", "1_000"),
)
TIMES = (
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000001Z", "9999-12-31T23:59:59.999999Z"),
    *("9999-12-31T23:59:59.999998Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    *(
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-0044-03-15T12:00:00Z",
        "2024-02-30T00:00:00Z",
    ),
    *(
        "2024-01-01T00:00:00",
        "2024-01-01",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+23:59:59",
    ),
    *("2024-12-31T23:59:60Z", "2024-01-01t00:00:00z", "2024-01-01T00:00:00.123456789Z", "24:00"),
    *("infinity", "-infinity", "now", "epoch", "0", "-1", "1e18", "253402300800", "NaN"),
)
LEVELS = (2, 60, 62, 63, 64, 65, 130, 250, 1_000, 50_000)
FIELDS = (
    *("id", "type", "timestamp", "source", "scope", "meta", "version", "service", "message"),
    *("method", "path", "headers", "body", "depth", "recorded_at", "seq", "__class__", "covers"),
)
META = ("trace_id", "correlation_id", "causation_id", "depth", "traceparent", "replayed_from", "x")
TRACEPARENTS = (
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "00-00000000000000000000000000000000-0000000000000000-00",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x",
    "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-00",
    "00",
)
TYPES = {
    "error.reported": {"service": '"fuzz"', "message": '"an error"'},
    "http.request": {"method": '"GET"', "path": '"/"'},
}
"""The public types of the default project, with the fields that each needs, as JSON."""

any_character = st.characters(codec=None)
texts = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from((199, 1_000, 70_000)).map(lambda count: "x" * count),
    st.text(max_size=20),
    st.text(st.one_of(any_character, st.sampled_from("\0\n\x1b\u202e\ud800/%.")), max_size=20),
)
"""Texts, some with half characters."""
storable_texts = st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text)
"""Texts that can be an id, or a client's name."""


@overload
def combined[A, B, R](
    make: Callable[[A, B], R], a: st.SearchStrategy[A], b: st.SearchStrategy[B], /
) -> st.SearchStrategy[R]: ...
@overload
def combined[A, B, C, D, R](
    make: Callable[[A, B, C, D], R],
    a: st.SearchStrategy[A],
    b: st.SearchStrategy[B],
    c: st.SearchStrategy[C],
    d: st.SearchStrategy[D],
    /,
) -> st.SearchStrategy[R]: ...
@overload
def combined[A, B, C, R](
    make: Callable[[A, B, C], R],
    a: st.SearchStrategy[A],
    b: st.SearchStrategy[B],
    c: st.SearchStrategy[C],
    /,
) -> st.SearchStrategy[R]: ...
def combined(make: Callable[..., Any], *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what a function makes of examples; `st.builds`, but with the types of lambdas."""
    return st.builds(make, *parts)


def mostly[T](
    usual: st.SearchStrategy[T], other: st.SearchStrategy[T], one_in: int = 4
) -> st.SearchStrategy[T]:
    """Return one strategy's examples, and one in so many of another: `st.one_of` takes each once."""
    return st.integers(1, one_in).flatmap(lambda n: other if n == one_in else usual)


def quoted(text: str, plainly: bool) -> str:
    """Return a text as JSON, its characters as they are or escaped."""
    return json.dumps(text, ensure_ascii=not plainly)


json_texts = st.builds(quoted, texts, st.booleans())
scalars = st.one_of(
    json_texts, st.sampled_from(NUMBERS), st.sampled_from(("true", "false", "null"))
)


def array(items: list[str]) -> str:
    """Return JSON of an array of JSON."""
    return f"[{','.join(items)}]"


def json_object(pairs: list[tuple[str, str]]) -> str:
    """Return JSON of an object; a key may come twice."""
    return f"{{{','.join(f'{key}:{value}' for key, value in pairs)}}}"


def nested(levels: int, as_object: bool) -> str:
    """Return JSON of so many levels."""
    return '{"a":' * levels + "1" + "}" * levels if as_object else "[" * levels + "]" * levels


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(json_texts, inner), max_size=4)
    return st.one_of(st.lists(inner, max_size=4).map(array), pairs.map(json_object))


json_values = st.one_of(
    scalars,
    st.recursive(scalars, _containers, max_leaves=8),
    st.builds(nested, st.sampled_from(LEVELS), st.booleans()),
)
times = st.one_of(
    st.sampled_from(TIMES).map(json.dumps),
    st.sampled_from(("0", "-1", "1e18", "253402300800", "-62135596800", "1.5", "NaN", "1e400")),
    st.datetimes(timezones=st.timezones()).map(lambda time: json.dumps(time.isoformat())),
)
traceparents = st.one_of(st.sampled_from(TRACEPARENTS), texts)
metas = st.one_of(
    json_values,
    st.lists(
        st.tuples(
            st.sampled_from(META).map(json.dumps),
            st.one_of(json_values, traceparents.map(json.dumps)),
        ),
        max_size=3,
    ).map(json_object),
)
ids = st.one_of(texts, st.text(min_size=1, max_size=60), st.uuids().map(str))
