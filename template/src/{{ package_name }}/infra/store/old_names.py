"""Deprecated names of `EventStore` methods."""

from typing import TYPE_CHECKING, Protocol

from ..deprecated import warn_deprecated

if TYPE_CHECKING:
    from ...core.units import Scope, Seconds
    from .claim import Token


class Successors(Protocol):
    """The current methods of `EventStore`."""

    async def release(self, *tokens: "Token", delay: "Seconds" = 0.0) -> bool: ...
    async def defer_scope(
        self,
        scope: "Scope",
        *tokens: "Token",
        seconds: "Seconds",
        for_capacity: bool = False,
        delay: "Seconds" = 0.0,
    ) -> None: ...
    def resume_deferred_scopes(self) -> None: ...


class OldNames:
    """Methods that older loops call. Each warns, and names its successor."""

    async def hand_back(self: Successors, *tokens: "Token", delay: "Seconds" = 0.0) -> None:
        """Call `release`."""
        warn_deprecated("EventStore.hand_back", "release")
        await self.release(*tokens, delay=delay)

    async def pass_on(
        self: Successors,
        scope: "Scope",
        *tokens: "Token",
        seconds: "Seconds",
        for_room: bool = False,
        delay: "Seconds" = 0.0,
    ) -> None:
        """Call `defer_scope`."""
        warn_deprecated("EventStore.pass_on", "defer_scope")
        await self.defer_scope(scope, *tokens, seconds=seconds, for_capacity=for_room, delay=delay)

    def look_again(self: Successors) -> None:
        """Call `resume_deferred_scopes`."""
        warn_deprecated("EventStore.look_again", "resume_deferred_scopes")
        self.resume_deferred_scopes()
