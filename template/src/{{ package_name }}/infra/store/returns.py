"""When deliveries of a scope last went back unhandled: from then on its order is looked at again.

A process that alone handles a scope need not ask the database for its order before each decision: what
it claims comes in order. Only what went back, or may have, can come behind what is later.
"""

import time
from collections import OrderedDict

from ...core.types import Scope

REMEMBERED_MOST = 10_000  # scopes


class Returns:
    """Notes by scope, on this process's monotonic clock."""

    def __init__(self) -> None:
        self._at: OrderedDict[Scope, float] = OrderedDict()
        self._all_at = 0.0
        """When it may have been any scope."""

    def note(self, scope: Scope) -> None:
        """Note that a delivery of this scope went back; of any scope if that is not known."""
        if not scope:
            return self.note_all()
        self._at[scope] = time.monotonic()
        self._at.move_to_end(scope)
        if len(self._at) > REMEMBERED_MOST:
            _, self._all_at = self._at.popitem(last=False)
        return None

    def note_all(self) -> None:
        """Note that deliveries of any scope may have gone back: a claim was lost on its way."""
        self._all_at = time.monotonic()
        self._at.clear()

    def last(self, scope: Scope) -> float:
        """Return when one of this scope last went back."""
        return max(self._at.get(scope, 0.0), self._all_at)
