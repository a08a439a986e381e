"""The shape of an error: what is left of it without what varies from one to the next.

Numbers, ids and quoted parts become `…`. Names of fields stay, so `{'message': 'lost', 'code': 17}` has the shape
`{'message': …, 'code': …}`.
"""

# Quoted parts, and words with a digit: numbers, ids, hashes, addresses.
VARYING = r"""'"[^"]*"|''[^'']*''|[[:alnum:]_.:-]*[0-9][[:alnum:]_.:-]*'"""
BEFORE_NAME = "[{,] ?"
NAME = "[[:alpha:]_][[:alpha:]_.-]*"
MARKS = {'"': 1, "''": 2}
"""The code of a character that stands for a quote of a field's name, by the quote in SQL."""


def shape_of(text: str) -> str:
    """Return the SQL expression of an error's shape; in one error, names of fields have one kind of quotes.

    A regular expression takes 10 us or more, so names are searched only where a quote and a colon are.
    """
    double, single = (f"strpos({text}, '{quote}:') > 0" for quote in MARKS)
    by_double, by_single = (_marked(text, quote) for quote in MARKS)
    marked = f"CASE WHEN {double} THEN {by_double} ELSE {by_single} END"
    restored = f"translate({_masked(marked)}, chr(1) || chr(2), '\"''')"
    return f"CASE WHEN {double} OR {single} THEN {restored} ELSE {_masked(text)} END"


def _masked(text: str) -> str:
    return f"regexp_replace({text}, {VARYING}, '…', 'g')"


def _marked(text: str, quote: str) -> str:
    """Return an expression in which the names of fields have marks for their quotes."""
    mark = f"chr({MARKS[quote]})"
    name = f"'({BEFORE_NAME}){quote}({NAME}){quote}:'"
    return f"regexp_replace({text}, {name}, '\\1' || {mark} || '\\2' || {mark} || ':', 'g')"
