"""Find the routes that require a key, by their dependencies, wherever their router was included."""

from collections.abc import Iterable
from typing import Any

from fastapi import routing
from fastapi.dependencies.models import Dependant
from fastapi.requests import HTTPConnection
from starlette.types import Scope

from .auth import Bearer


class RouteSecurity:
    """Check the client of a request before its body is read; dependencies run afterwards."""

    def __init__(self) -> None:
        self._security: dict[int, tuple[Bearer, ...]] = {}
        """The checks of each route by its identity; empty if the route is public at any of its paths."""

    async def check(self, scope: Scope) -> None:
        """Check that a request has the key and the roles that its route requires.

        Raises:
            HTTPException: the key is missing or not valid, or its client lacks a role.
        """
        route = scope.get("route")
        if id(route) not in self._security:
            self._index_routes(scope)
            self._security.setdefault(id(route), ())
        for guard in self._security[id(route)]:
            if guard not in scope["app"].dependency_overrides:
                await guard(HTTPConnection(scope))

    def _index_routes(self, scope: Scope) -> None:
        """Collect the checks of all routes of an application."""
        app = scope.get("app")
        for found in iter_routes(getattr(app, "routes", [])):
            route = id(getattr(found, "original_route", found))
            guards = security_of(getattr(found, "dependant", None))
            self._security[route] = guards if self._security.get(route, guards) else ()


def security_of(dependant: Dependant | None) -> tuple[Bearer, ...]:
    """Return the dependencies of a route that require a key, each once."""
    if dependant is None:
        return ()
    own = [dependant.call] if isinstance(dependant.call, Bearer) else []
    inner = [guard for each in dependant.dependencies for guard in security_of(each)]
    return tuple(dict.fromkeys([*own, *inner]))


def iter_routes(routes: Iterable[Any]) -> Iterable[Any]:
    """Return the routes, with the dependencies of the routers that include them."""
    # Older versions of FastAPI copy the routes into the application when a router is included.
    contexts = getattr(routing, "iter_route_contexts", None)
    return contexts(routes) if contexts else routes
