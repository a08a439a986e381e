"""What counts as a module's interface, on which the types of other modules may depend."""

import pytest

from .import_closure import Closures, interface_of

MODULE = '''
import json
from .b import Beta
from .c import unused

LIMIT = 3
named: dict[str, int] = {}

class Alpha:
    size: int = 1

    def __init__(self) -> None:
        self.beta = Beta()

    async def each(self, count: int = 1) -> int:
        """Return it."""
        return len(json.dumps(unused))

def inferred(value: int):
    return value
'''

SAME = [
    ("return len(json.dumps(unused))", "return count"),
    ('"""Return it."""', '"""Return something else."""'),
    ("named: dict[str, int] = {}", "named: dict[str, int] = dict()"),
    ("from .c import unused", "from .c import unused, other"),
    ("import json\n", ""),
]
OTHER = [
    ("-> int", "-> str"),
    ("count: int = 1", "count: str"),
    ("async def each", "def each"),
    ("return len(json.dumps(unused))", "yield len(json.dumps(unused))"),
    ("self.beta = Beta()", "self.beta = Beta"),
    ("LIMIT = 3", "LIMIT = '3'"),
    ("size: int = 1", "size: int"),
    ("    return value", "    return str(value)"),
    ("from .b import Beta", "from .d import Beta"),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_what_no_type_elsewhere_can_depend_on_leaves_the_interface_as_it_is(
    old: str, new: str
) -> None:
    assert old in MODULE

    assert interface(MODULE.replace(old, new)) == interface(MODULE)


@pytest.mark.parametrize(("old", "new"), OTHER)
def test_whatever_a_type_elsewhere_may_depend_on_changes_the_interface(old: str, new: str) -> None:
    assert old in MODULE

    assert interface(MODULE.replace(old, new)) != interface(MODULE)


def test_a_package_exports_its_imports() -> None:
    exports = "from .b import Beta\n"

    assert interface(exports, exports_imports=True) != interface("", exports_imports=True)
    assert interface(exports) == interface("")


def test_types_depend_on_interfaces_however_far_away_and_on_all_of_the_module_itself() -> None:
    files = {
        "src/p/__init__.py": "",
        "src/p/a.py": "from .b import b\n\ndef a() -> int:\n    return b\n",
        "src/p/b.py": "from .c import c\n\nb = c()\n",
        "src/p/c.py": "def c() -> int:\n    return 1\n",
    }
    before = types_of(files, "src/p/a.py")

    body = files | {"src/p/c.py": "def c() -> int:\n    return 2\n"}
    signature = files | {"src/p/c.py": "def c() -> str:\n    return 'c'\n"}
    itself = files | {"src/p/a.py": files["src/p/a.py"].replace("return b", "return 1")}

    assert types_of(body, "src/p/a.py") == before
    assert types_of(body, "src/p/c.py") != types_of(files, "src/p/c.py")
    assert types_of(signature, "src/p/a.py") != before
    assert types_of(itself, "src/p/a.py") != before


def interface(text: str, exports_imports: bool = False) -> str:
    """Return the digest of the interface of a module `p.a`."""
    return interface_of(text.encode(), ("p",), exports_imports).digest


def types_of(files: dict[str, str], name: str) -> str:
    """Return what a module's types depend on in a project of these files."""
    return Closures(files, {text: text.encode() for text in files.values()}).types_of(name)
