"""Finds tools of the agent that call out and are not marked `@effect`, by reading its code without running it."""

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .calls import Imports, calls_out, name_of
from .findings import Finding, ok, warning

CHECK = "tools"
AGENT = Path(__file__).parent.parent / "agent"
SILENT = "# not an effect"
"""The beginning of a comment, on the line of the call or of the `def`, that silences a finding."""
REGISTERS = frozenset({"tool", "tool_plain"})
"""Methods of agents and toolsets that register what is below them."""
TAKES_TOOLS = frozenset({"Tool", "add_function", "add_tool"})
"""Calls whose first argument is a tool."""

type Def = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function of the package, with what its module says about it."""

    node: Def
    imports: Imports
    path: Path
    lines: list[str]
    is_marked: bool
    is_tool: bool

    @property
    def place(self) -> str:
        """Return where it is: `agent/tools.py:12`."""
        return f"{self.path.relative_to(AGENT.parent).as_posix()}:{self.node.lineno}"

    def is_silent(self, node: ast.Call | Def) -> bool:
        """Return whether a comment at a call, or at the line of a `def`, silences findings."""
        last = node.end_lineno or node.lineno
        lines = range(node.lineno, (last if isinstance(node, ast.Call) else node.lineno) + 1)
        return any(SILENT in self.lines[each - 1] for each in lines)


async def check_tools() -> list[Finding]:
    """Return a warning for each tool that calls out and is not marked, and for each mark without effect."""
    functions = list(_functions())
    by_name = {each.node.name: each for each in functions}
    found = [each for function in functions for each in _faults(function, by_name)]
    return found or [ok(CHECK, "those that act on the outside are marked")]


def _functions() -> Iterator[Function]:
    modules: list[tuple[Path, str, ast.Module]] = []
    for path in sorted(AGENT.rglob("*.py")):
        text = path.read_text("utf-8")
        with suppress(SyntaxError):  # the check that imports the agent reports it
            modules.append((path, text, ast.parse(text)))
    imports = {path: Imports.of(tree) for path, _, tree in modules}
    tools = {name for _, _, tree in modules for name in _registered(tree)}
    marked = {name for path, _, tree in modules for name in _wrapped(tree, imports[path])}
    for path, text, tree in modules:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                is_marked = node.name in marked or bool(_marks(node, imports[path]))
                is_tool = node.name in tools or bool(_registers(node)) or _takes_context(node)
                yield Function(node, imports[path], path, text.splitlines(), is_marked, is_tool)


def _faults(function: Function, by_name: Mapping[str, Function]) -> Iterator[Finding]:
    node = function.node
    marks, registers = _marks(node, function.imports), _registers(node)
    what = f"{node.name} at {function.place}"
    if marks and registers and marks[0] < registers[-1]:
        register = name_of(node.decorator_list[registers[-1]])
        found = f"{what} is registered without its mark"
        yield warning(CHECK, f"Move @effect below @{register}", found)
    if function.is_tool and not function.is_marked:
        if call := _call_out(function, by_name, set()):
            remedy = f"Mark it with @effect, or write `{SILENT}` there"
            yield warning(CHECK, remedy, f"{what} calls {call}")


def _call_out(function: Function, by_name: Mapping[str, Function], seen: set[Def]) -> str | None:
    """Return the first call of a function that acts on the outside, also by functions that it calls."""
    if function.node in seen or function.is_silent(function.node):
        return None
    seen.add(function.node)
    for node in ast.walk(function.node):
        if not isinstance(node, ast.Call) or function.is_silent(node):
            continue
        if call := calls_out(node, function.node, function.imports):
            return call
        called = by_name.get(name_of(node.func))
        if called is None or called.is_marked:
            continue
        if inner := _call_out(called, by_name, seen):
            return f"{inner} by {called.node.name}"
    return None


def _registered(tree: ast.Module) -> Iterator[str]:
    """Yield the names in `tools=[...]` and in calls that take a tool."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "tools":
            yield from (each.id for each in ast.walk(node.value) if isinstance(each, ast.Name))
        elif isinstance(node, ast.Call) and node.args:
            if name_of(node.func).rpartition(".")[2] in TAKES_TOOLS:
                yield name_of(node.args[0])


def _wrapped(tree: ast.Module, imports: Imports) -> Iterator[str]:
    """Yield the names that `effect(...)` is called with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and _is_mark(node.func, imports):
            yield name_of(node.args[0])


def _is_mark(node: ast.expr, imports: Imports) -> bool:
    return imports.full(name_of(node)).endswith("effects.effect")


def _marks(node: Def, imports: Imports) -> list[int]:
    """Return the positions of `@effect` among the decorators."""
    return [at for at, each in enumerate(node.decorator_list) if _is_mark(each, imports)]


def _registers(node: Def) -> list[int]:
    """Return the positions of `@agent.tool` and the like among the decorators."""
    names = [name_of(each).rpartition(".")[2] for each in node.decorator_list]
    return [at for at, name in enumerate(names) if name in REGISTERS]


def _takes_context(node: Def) -> bool:
    first = (node.args.posonlyargs + node.args.args)[:2]  # in a class, the second
    return any("RunContext" in ast.unparse(each.annotation) for each in first if each.annotation)
