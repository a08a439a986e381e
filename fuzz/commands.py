"""Command lines, and files of JSON Lines, as no operator writes them.

`prune` gets ages within which nothing of the run lies, or no ages; dead letters may go, since the log keeps their events.
"""

import json
import shlex
from dataclasses import dataclass

from hypothesis import strategies as st

from .events import encoded, event_texts
from .hostile import FIELDS, TYPES, combined, ids, json_values, texts, times

OPTIONS = (
    "--json",
    "--help",
    "--scope",
    "--types",
    "--subscriber",
    "--limit",
    "-x",
    "--",
    "--yes",
    "--last",
)
AGES = (
    "1d",
    "30d",
    "999999999d",
    "24h",
    "0",
    "-1d",
    "1y",
    "1e9d",
    "\u0661d",
    "9999999999d",
    "",
    "1d\n",
)
LASTS = ("1h", "5m", "999999999d", "0s", "-1h", "1", "", "x", "\u0669h", "1d1h")
URLS = (
    "http://127.0.0.1:9",
    "http://[::1",
    "ftp://x",
    "",
    "x",
    "http://127.0.0.1:99999",
    "http://\n",
    "http://u:secret@127.0.0.1:9/?key=secret",
    "http://x\x1b[31m.invalid",
)
KNOWN_TYPES = (*TYPES, "agent.action", "lifecycle", "ws.message")


@dataclass(frozen=True)
class Command:
    """One command line, and what comes on its standard input."""

    words: tuple[bytes, ...]
    given: bytes = b""
    ends: bool = True
    """Whether it ends by itself; else it is interrupted after a while."""

    @property
    def name(self) -> str:
        """The command's name."""
        return self.words[0].decode()


def words(*parts: str | bytes) -> tuple[bytes, ...]:
    """Return arguments as an operating system takes them, which has no NUL."""
    raw = [
        part if isinstance(part, bytes) else part.encode(errors="surrogatepass") for part in parts
    ]
    return tuple(part.replace(b"\0", b"")[:60_000] for part in raw)


texts_or_bytes = st.one_of(texts, st.binary(max_size=20))
field = st.one_of(
    combined(lambda name, text: f"{name}={text}", st.sampled_from(FIELDS), texts),
    combined(lambda name, value: f"{name}:={value}", st.sampled_from(FIELDS), json_values),
    times.map(lambda time: f"timestamp:={time}"),
    texts_or_bytes,
)
complete = {
    name: [f"{key}={json.loads(value)}" for key, value in fields.items()]
    for name, fields in TYPES.items()
}
publishing = st.one_of(
    combined(
        lambda name, fresh, more: Command(
            words("publish", name, *complete[name], f"id={fresh}", *more)
        ),
        st.sampled_from(sorted(TYPES)),
        st.uuids(),
        st.lists(field, max_size=2),
    ),
    st.lists(field, max_size=3).map(lambda parts: Command(words("publish", *parts))),
)
lines = st.lists(
    st.one_of(
        event_texts().map(encoded),
        event_texts().map(encoded),
        json_values.map(encoded),
        st.binary(max_size=50),
    ),
    max_size=6,
)
from_files = combined(
    lambda parts, end: Command(words("publish", "--file", "-"), end.join(parts)),
    lines,
    st.sampled_from((b"\n", b"\r\n", b"\n\n", b"\r", b"")),
)
filters = st.one_of(
    st.just(()),
    texts_or_bytes.map(lambda text: ("--scope", text)),
    st.sampled_from(KNOWN_TYPES).map(lambda name: ("--types", name)),
    texts_or_bytes.map(lambda text: ("--types", text)),
    st.integers(48, 53).map(lambda count: ("--types", ",".join(["x"] * count))),
)
periods = st.one_of(
    st.sampled_from(LASTS).map(lambda last: ("--last", last)),
    combined(
        lambda start, end: ("--start", start, "--end", end),
        *[times.map(lambda t: t.strip('"'))] * 2,
    ),
    texts_or_bytes.map(lambda text: ("--start", text)),
    st.just(("--last", "1m")),
)
replaying = combined(
    lambda period, more: Command(words("replay", *period, *more)), periods, filters
)
forwarding = combined(
    lambda url, key: Command(words("replay", "--last", "1s", "--publish-to", url, "--key", key)),
    st.sampled_from(URLS),
    texts_or_bytes,
)
tailing = combined(
    lambda more, plain: Command(words("tail", *more, *plain), ends=False),
    filters,
    st.sampled_from(((), ("--json",))),
)
letters = combined(
    lambda name, more: Command(words("dlq", name, *more)),
    st.sampled_from(("list", "show", "retry", "retry-all", "purge")),
    st.one_of(
        ids.map(lambda text: (text,)),
        ids.map(lambda text: ("--subscriber", text)),
        combined(lambda option, text: (option, text), st.sampled_from(OPTIONS), texts_or_bytes),
        st.just(("--yes",)),
    ),
)
pruning = st.sampled_from(AGES).map(lambda age: Command(words("prune", "--older-than", age)))
anything = combined(
    lambda name, more: Command(words(name, *more)),
    st.sampled_from(("stats", "events", "list", "publish", "dlq", "replay")),
    st.lists(st.one_of(st.sampled_from(OPTIONS), texts_or_bytes), max_size=3),
)
commands = st.one_of(
    publishing,
    publishing,
    from_files,
    from_files,
    replaying,
    forwarding,
    tailing,
    letters,
    pruning,
    anything,
)


def shown(command: Command) -> str:
    """Return a command for people, and so that it can be repeated."""
    line = shlex.join(word.decode(errors="backslashreplace") for word in command.words)
    return f"{line:.1500}" + (f" with the input {command.given!r:.1500}" if command.given else "")
