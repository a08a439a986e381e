"""What a module of a rendered project rests on: itself and all that it imports, however far away.

Two projects in which that is the same cannot differ in the module's types, nor, for a module of tests
that looks at nothing else, in whether they pass.
"""

import ast
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

type Tree = dict[str, str]
"""The digests of a project's files by their paths."""

STARTS_PROCESSES = ("processes import", "command: Command")
"""What shows that a module of tests starts the service, which may then do anything."""

READS_FILES = "__file__"
"""What shows that a module of tests reads the project's files."""


NOTICED = (
    ".py",
    ".html",
    ".js",
    "VENDORED.md",
    ".env.example",
    "docs/architecture.md",
    "docs/patterns.md",
    "docs/cookbook.md",
    "docs/operations.md",
    "docs/prompt-injection.md",
    "README.md",
)
"""What tests that look at everything can notice; no test reads the licence."""


class Closures:
    """The closures of one project's modules."""

    def __init__(self, tree: Tree, texts: dict[str, bytes], project_name: str = "") -> None:
        self._tree = tree
        self._project_name = project_name
        self._texts = texts
        self._package = next(name.split("/")[1] for name in tree if name.startswith("src/"))
        self._interfaces: dict[str, tuple[str, set[str]]] = {}
        self._imports = {
            name: {file for module in imported(texts[digest], name) for file in self._files(module)}
            for name, digest in tree.items()
            if name.endswith(".py")
        }

    def types_of(self, name: str) -> str:
        """Return a digest of all that a module's types depend on: itself, and the interfaces of what it imports."""
        reached: set[str] = set()
        left = self._imports[name] - {name}
        while left:
            reached |= left
            left = set[str]().union(*(self._interface(each)[1] for each in left)) - reached
        parts = [f"{each} {self._interface(each)[0]}" for each in sorted(reached - {name})]
        return hashlib.sha256("\n".join([name, self._tree[name], *parts]).encode()).hexdigest()

    def _interface(self, name: str) -> tuple[str, set[str]]:
        """Return the digest of a module's interface, and the files that it imports from."""
        if name not in self._interfaces:
            text = self._texts[self._tree[name]]
            found = interface_of(text, _folder_of(name), name.endswith("__init__.py"))
            files = {file for module in found.imported for file in self._files(module)}
            self._interfaces[name] = found.digest, files
        return self._interfaces[name]

    def starts_processes(self, name: str) -> bool:
        """Tell whether a module of tests starts real processes, which takes seconds each time."""
        text = self._texts[self._tree[name]].decode()
        return any(sign in text for sign in STARTS_PROCESSES)

    def tests_of(self, name: str) -> str:
        """Return a digest of all that a module of tests can notice."""
        text = self._texts[self._tree[name]].decode()
        if self.starts_processes(name) or READS_FILES in text:
            looked_at = {each for each in self._tree if each.endswith(NOTICED)}
            return self._shape_of(looked_at)
        roots = {name, "tests/conftest.py", "tests/__init__.py"}
        reached = self.reached(roots)
        if any("/migrations/" in each for each in reached):
            reached |= {
                each for each in self._tree if "/migrations/" in each and each.endswith(".py")
            }
        return self._shape_of(reached)

    def reached(self, names: set[str]) -> set[str]:
        """Return these modules and all that they import, however far away."""
        reached: set[str] = set()
        left = names
        while left:
            reached |= left
            left = set[str]().union(*(self._imports[name] for name in left)) - reached
        return reached

    def _files(self, module: tuple[str, ...]) -> list[str]:
        """Return the files that are run when something is imported from a module."""
        if module[0] == self._package:
            module = ("src", *module)
        paths = ["/".join(module[:end]) for end in range(1, len(module) + 1)]
        candidates = [file for path in paths for file in (f"{path}/__init__.py", f"{path}.py")]
        return [file for file in candidates if file in self._tree]

    def _shape_of(self, names: set[str]) -> str:
        parts = [
            f"{name.replace(f'src/{self._package}/', 'src/')} "
            + shape(self._texts[self._tree[name]], self._package, self._project_name)
            for name in sorted(names)
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def imported(text: bytes, name: str) -> frozenset[tuple[str, ...]]:
    """Return the modules that a file of a project imports, and what it imports from them."""
    return _imported(text, _folder_of(name), name.startswith("tests/"))


def _folder_of(name: str) -> tuple[str, ...]:
    folder = PurePosixPath(name).parent.parts
    return folder[1:] if folder[:1] == ("src",) else folder


@cache
def _imported(text: bytes, folder: tuple[str, ...], at_the_top: bool) -> frozenset[tuple[str, ...]]:
    tree = ast.parse(text)
    return _modules_in(tree.body if at_the_top else ast.walk(tree), folder)


def _modules_in(nodes: Iterable[ast.AST], folder: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {module, *((*module, alias.name) for alias in node.names)} - {()}
    return frozenset(found)


INFERRED = ("Final", "TypeAlias")
"""Annotations that leave the type to the value."""


@dataclass(frozen=True)
class Interface:
    """What the types of other modules may depend on in a module."""

    digest: str
    imported: frozenset[tuple[str, ...]]


@cache
def interface_of(text: bytes, folder: tuple[str, ...], exports_imports: bool) -> Interface:
    """Return the interface of a module: without the bodies of functions and the values of names whose types are declared.

    Nor with imports that nothing else in it needs, unless it exports them.
    """
    tree = _WithoutBodies().visit(ast.parse(text))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) not in INFERRED:
            node.value = None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and not exports_imports:
            node.names = [
                alias
                for alias in node.names
                if alias.name == "*"
                or alias.asname == alias.name
                or (alias.asname or alias.name).partition(".")[0] in used
            ]
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.Import | ast.ImportFrom) or node.names
    ]
    kept = (node for node in ast.walk(tree) if not isinstance(node, ast.ImportFrom) or node.names)
    return Interface(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), _modules_in(kept, folder))


class _WithoutBodies(ast.NodeTransformer):
    """Empties functions whose result is annotated, and which set no attributes: no other type is inferred from them."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._emptied(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._emptied(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else node

    @staticmethod
    def _emptied(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        sets = any(
            isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
            for each in ast.walk(node)
        )
        # A generator is another type than a function that returns one, if both are asynchronous.
        yields = any(isinstance(each, ast.Yield | ast.YieldFrom) for each in ast.walk(node))
        if node.returns is not None and not sets:
            node.body = [ast.Expr(ast.Yield())] if yields else [ast.Pass()]
        return node


@cache
def shape(text: bytes, package: str, project_name: str) -> str:
    """Return a digest of what a file says, whatever the project is called and how lines are broken."""
    command = re.sub("[^a-z0-9]+", "-", project_name.lower())
    try:
        said = ast.dump(ast.parse(text))
    except SyntaxError:  # it is no Python
        said = text.decode()
    for name in (project_name, command, package):
        said = re.sub(rf"\b{re.escape(name)}\b", "NAME", said) if name else said
    return hashlib.sha256(said.encode()).hexdigest()
