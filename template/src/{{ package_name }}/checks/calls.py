"""Recognizes calls that act outside of the process, in the syntax tree of a function."""

import ast
from typing import NamedTuple

CLIENTS = frozenset({"aiohttp", "httpx", "httpx2", "niquests", "requests", "urllib3"})
"""Libraries whose functions and clients send HTTP requests."""
WRITES = frozenset({"delete", "patch", "post", "put"})
"""Methods of a client that act; `get`, `head` and `options` only read."""
BY_ARGUMENT = frozenset({"request", "send", "stream"})
"""Methods of a client whose arguments decide whether they act."""
READS = frozenset({"GET", "HEAD", "OPTIONS"})
ACTS = (
    "aiosmtplib.",
    "asyncio.create_subprocess_",
    "os.popen",
    "os.spawn",
    "os.system",
    "smtplib.",
    "subprocess.",
)
"""The beginnings of names whose calls act."""
CLIENT_WORDS = ("client", "http", "webhook")
"""Words in the name of a variable or attribute that is a client, such as `http` or `stripe_client`."""


class Imports(NamedTuple):
    """The full name of each name that a module imports."""

    names: dict[str, str]

    @classmethod
    def of(cls, tree: ast.AST) -> "Imports":
        """Return the imports of a module, at its start and in its functions."""
        names: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    first = each.name.partition(".")[0]
                    names[each.asname or first] = each.name if each.asname else first
            elif isinstance(node, ast.ImportFrom):
                for each in node.names:
                    names[each.asname or each.name] = f"{node.module or ''}.{each.name}"
        return cls(names)

    def full(self, name: str) -> str:
        """Return a dotted name with its first part resolved."""
        first, dot, rest = name.partition(".")
        return f"{self.names.get(first, first)}{dot}{rest}"


def name_of(node: ast.AST) -> str:
    """Return the dotted name of an expression, with a call as the name of what is called."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{name_of(node.value)}.{node.attr}"
        case ast.Call():
            return name_of(node.func)
        case ast.Await():
            return name_of(node.value)
        case _:
            return ""


def calls_out(call: ast.Call, function: ast.AST, imports: Imports) -> str | None:
    """Return the name of a call if it acts on the outside; None if it does not, or only reads."""
    name = name_of(call.func)
    full = imports.full(name)
    if full.startswith(ACTS):
        return name
    if full == "urllib.request.urlopen":
        return name if len(call.args) > 1 or _keyword(call, "data") else None
    receiver, _, method = full.rpartition(".")
    if method not in WRITES | BY_ARGUMENT or not _is_client(receiver, function, imports):
        return None
    if method in BY_ARGUMENT and _method_of(call) in READS:
        return None
    return name


def _is_client(receiver: str, function: ast.AST, imports: Imports) -> bool:
    first, _, rest = receiver.partition(".")
    if first in CLIENTS or (not rest and first in _clients_of(function, imports)):
        return True
    return any(word in receiver.rpartition(".")[2].lower() for word in CLIENT_WORDS)


def _clients_of(function: ast.AST, imports: Imports) -> set[str]:
    """Return the variables that a function binds to a client: by `=`, or by `with ... as`."""
    found: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=value):
                pass
            case ast.withitem(optional_vars=ast.Name(name), context_expr=value):
                pass
            case _:
                continue
        if imports.full(name_of(value)).partition(".")[0] in CLIENTS:
            found.add(name)
    return found


def _method_of(call: ast.Call) -> str:
    """Return the constant HTTP method of `request("GET", ...)` in capitals; empty if it is not constant."""
    value = call.args[0] if call.args else _keyword(call, "method")
    text = value.value if isinstance(value, ast.Constant) else None
    return text.upper() if isinstance(text, str) else ""


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)
