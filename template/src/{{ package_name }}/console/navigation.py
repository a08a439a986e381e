"""The screens of the console in their order; pages of yours follow them."""

from typing import Annotated, NamedTuple
from urllib.parse import quote, unquote, urlencode

from fastapi import Query

from ..api.sessions import CONSOLE_PATH, is_console
from .pages import PAGES

TIMERS_PATH = f"{CONSOLE_PATH}/timers"
MAX_PATH_LENGTH = 2_000  # characters of a path to return to

Before = Annotated[int | None, Query(ge=0, lt=2**63)]
"""The `seq` of an event, of which a page shows older ones."""


class Link(NamedTuple):
    """An entry of the navigation."""

    path: str
    title: str


SCREENS = (
    Link(CONSOLE_PATH, "Now"),
    Link(f"{CONSOLE_PATH}/scopes", "Scopes"),
    Link(f"{CONSOLE_PATH}/decisions", "Decisions"),
    Link(f"{CONSOLE_PATH}/dead-letters", "Dead letters"),
    Link(f"{CONSOLE_PATH}/events", "Events"),
    Link(TIMERS_PATH, "Timers and workers"),
)

PARENTS = {
    f"{CONSOLE_PATH}/scope": f"{CONSOLE_PATH}/scopes",
    f"{CONSOLE_PATH}/decision": f"{CONSOLE_PATH}/decisions",
    f"{CONSOLE_PATH}/event": f"{CONSOLE_PATH}/events",
    f"{CONSOLE_PATH}/do/publish": f"{CONSOLE_PATH}/events",
    f"{CONSOLE_PATH}/do/retry": f"{CONSOLE_PATH}/dead-letters",
    f"{CONSOLE_PATH}/do/purge": f"{CONSOLE_PATH}/dead-letters",
    f"{CONSOLE_PATH}/do/tick": TIMERS_PATH,
    f"{CONSOLE_PATH}/do/pause": TIMERS_PATH,
    f"{CONSOLE_PATH}/do/resume": TIMERS_PATH,
    f"{CONSOLE_PATH}/do/erase": f"{CONSOLE_PATH}/scopes",
}
"""Pages that are not in the navigation, with the entry that is marked as theirs."""


def links() -> list[Link]:
    """Return the entries of the navigation."""
    return [
        *SCREENS,
        *(Link(f"{CONSOLE_PATH}/{path}", title) for path, (title, _) in PAGES.items()),
    ]


def url(path: str, **query: object) -> str:
    """Return an address with its query; parameters that are None or empty are omitted."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    text = urlencode(given, doseq=True, quote_via=quote)
    return f"{path}?{text}" if text else path


def local_path(path: str) -> str:
    """Return the path, with its query, if it leads to a page of the console; else the console's first page."""
    place = unquote(path.partition("?")[0])  # browsers resolve encoded dots, too
    is_plain = (path + place).isprintable() and "\\" not in path + place
    fits = len(path) <= MAX_PATH_LENGTH and is_plain and ".." not in place.split("/")
    return path if fits and is_console(place) else CONSOLE_PATH
