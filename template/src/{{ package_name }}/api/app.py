"""The FastAPI application: what it opens when it starts, and which doors it has."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Security

from .. import TITLE
from .. import __doc__ as description
from ..config import Settings, get_settings
from ..infra.observability import configure_observability, instrument_app
from ..runtime import open_service
from .auth import require_key
from .edge import Edge
from .errors import add_error_handlers
from .hub import open_hub
from .routes import YOURS, dlq, events, health, stream, ws


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Run the service for as long as the application does; its agent too, unless told otherwise."""
    settings: Settings = app.state.settings
    async with open_service(settings, worker=settings.api_worker) as service:
        async with open_hub(service) as hub:
            app.state.service = service
            app.state.store = service.store
            app.state.http = service.http
            app.state.pool = service.database.pool
            app.state.locks = service.locks
            app.state.hub = hub
            yield


def create_app(settings: Settings) -> FastAPI:
    """Build the application; it opens its service when it is started."""
    configure_observability(settings)
    app = FastAPI(
        title=TITLE,
        description=description or "",
        version=settings.version,
        lifespan=lifespan,
        docs_url="/docs" if settings.lenient else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.lenient else None,
    )
    app.state.settings = settings
    app.add_middleware(Edge, max_body_bytes=settings.api_max_body_bytes)
    add_error_handlers(app)
    guarded = [Security(require_key)]
    # First what is asked most: each request looks through the routes before its own, twice.
    app.include_router(events.router, prefix="/events", tags=["events"], dependencies=guarded)
    app.include_router(health.router, tags=["health"])
    app.include_router(stream.router, prefix="/events", tags=["events"], dependencies=guarded)
    app.include_router(dlq.router, prefix="/events/dlq", tags=["dlq"], dependencies=guarded)
    app.include_router(ws.router, prefix="/ws", tags=["websocket"])
    for prefix, router in YOURS.items():
        app.include_router(router, prefix=prefix, dependencies=guarded)
    app.include_router(events.one, prefix="/events", tags=["events"], dependencies=guarded)
    instrument_app(app)
    return app


app = create_app(get_settings())
