"""The door of the OpenAPI document: what Schemathesis derives from it, and whether the answers fit it."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# Types of Schemathesis are generic in what it does not say.

import re
from dataclasses import dataclass
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import APIOperation, GenerationMode, Response
from schemathesis import Case as AnyCase
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup

from .fault import Account, Fault
from .judge import in_time
from .ledger import Ledger
from .request import KEY
from .wire import PATIENCE

ENDLESS = "/events/stream"  # its answer has no end that could be waited for
IN_ADDRESS = re.compile(r"(query|path)\b")
OF_VALUES = re.compile(
    r"violates `(minimum|maximum|exclusiveM\w+|m(in|ax)(Length|Items)|pattern|enum)`"
)
"""A value that is wrong as a text, too. In an address all are texts, and what no document has is ignored."""
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
type Case = AnyCase[Any]
type Operation = APIOperation[Any, Any, Any, Any]

load_all_checks()
CHECKS_OF: list[Any] = [CHECKS.get_one(name) for name in CHECKED]
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def cases(document: dict[str, Any]) -> st.SearchStrategy[Case]:
    """Return requests that fit a document, and some that just do not."""
    schema = schemathesis.openapi.from_dict(document)
    operations: list[Operation] = [
        schema[path][method] for path in schema for method in schema[path]
    ]
    return st.one_of(
        [
            operation.as_strategy(mode)
            for operation in operations
            for mode in GenerationMode
            if operation.path != ENDLESS and (mode.is_positive or _takes_something(operation))
        ]
    )


def _takes_something(operation: Operation) -> bool:
    """Whether there is anything that could be wrong."""
    return bool(operation.body or list(operation.iter_parameters()))


def is_harmless(failure: str) -> bool:
    """Whether what was accepted is wrong in its address alone, and only by the types of its values."""
    _, begun, components = failure.partition("Invalid component")
    if not begun or not IN_ADDRESS.search(components) or "body" in components:
        return False
    return not OF_VALUES.search(components)


@dataclass(frozen=True)
class Schema:
    """Sends what Schemathesis made, and lets it compare the answers with the document."""

    url: str
    ledger: Ledger
    account: Account

    def attempt(self, case: Case) -> None:
        """Send a request.

        Raises:
            Fault: the answer does not fit the document, or was late.
        """
        self.account.try_one("schema requests")
        response = in_time(lambda: self._call(case), lambda it: it.elapsed, self.account)
        self.account.count(str(response.status_code))
        try:
            case.validate_response(response, checks=CHECKS_OF, headers=AUTHORIZED)
        except FailureGroup as group:
            found = [each for each in group.exceptions if not is_harmless(str(each))]
            if not found:
                return
            first = min(found, key=str)
            where = f"{case.method} {case.operation.path}"
            raise Fault(
                f"schema: {first.title}, {where}", f"{response.status_code} {first}"
            ) from None
        if response.status_code == 200 and case.method == "POST" and case.path == "/events":
            said = response.json()
            self.ledger.accept(said["id"], {}, new=said["status"] == "published")

    def _call(self, case: Case) -> Response:
        try:
            return case.call(base_url=self.url, headers=AUTHORIZED, timeout=PATIENCE)
        except requests.Timeout as error:
            raise TimeoutError from error


def shown(case: Case) -> str:
    """Return a case as a command that repeats it."""
    return case.as_curl_command(headers=AUTHORIZED)[:2_000]
