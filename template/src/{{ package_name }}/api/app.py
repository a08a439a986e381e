"""The FastAPI application: its lifespan, middleware and routers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Security

from .. import TITLE
from .. import __doc__ as description
from ..config import Settings, get_settings
from ..console.setup import add_console
from ..infra.observability import configure_observability, instrument_app
from ..runtime import open_service
from ..sources import Sources, load_sources
from .auth import require_key
from .errors import add_error_handlers
from .hub import open_hub
from .memory_limiter import MemoryLimiter, max_body_bytes
from .middleware import BodyLimitMiddleware
from .rate_limits import RateLimits
from .routes import PUBLIC, YOURS, dlq, events, health, stream, ws
from .routes.webhooks import webhook_router
from .sessions import Sessions


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Run the service while the application runs; with `API_WORKER`, its agent too."""
    settings: Settings = app.state.settings
    sources: Sources = app.state.sources
    async with open_service(settings, worker=settings.api_worker, sources=sources) as service:
        async with open_hub(service) as hub:
            app.state.service = service
            app.state.store = service.store
            app.state.http = service.http
            app.state.pool = service.database.pool
            app.state.locks = service.locks
            app.state.hub = hub
            yield


def create_app(settings: Settings, sources: Sources | None = None) -> FastAPI:
    """Build the application, with the sources of `agent/sources.py` or others; its lifespan opens the service.

    Raises:
        StartupError: `agent/sources.py` is not valid.
    """
    configure_observability(settings)
    sources = load_sources() if sources is None else sources
    app = FastAPI(
        title=TITLE,
        description=description or "",
        version=settings.version,
        lifespan=lifespan,
        docs_url="/docs" if settings.lenient else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.lenient else None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `instrument_app` has it
    )
    app.state.settings = settings
    app.state.sources = sources
    app.state.memory_limiter = MemoryLimiter(settings)
    app.state.rate_limits = rates = RateLimits(settings)
    app.state.sessions = Sessions(settings, rates) if settings.serves_console else None
    max_bytes = {events.publish_batch: max_body_bytes(settings)}
    app.add_middleware(
        BodyLimitMiddleware,
        settings=settings,
        rates=rates,
        memory=app.state.memory_limiter,
        max_bytes_by_endpoint=max_bytes,
        sessions=app.state.sessions,
    )
    add_error_handlers(app)
    # The busiest routes come first: routing tries all earlier routes, twice for each request.
    app.include_router(events.router, prefix="/events", tags=["events"])
    app.include_router(health.router, tags=["health"])
    app.include_router(stream.router, prefix="/events", tags=["events"])
    app.include_router(dlq.router, prefix="/events/dlq", tags=["dlq"])
    app.include_router(ws.router, prefix="/ws", tags=["websocket"])
    for prefix, router in YOURS.items():
        app.include_router(router, prefix=prefix, dependencies=[Security(require_key)])
    for prefix, router in PUBLIC.items():
        app.include_router(router, prefix=prefix)
    app.include_router(webhook_router(sources, rates), prefix="/webhooks", tags=["webhooks"])
    app.include_router(events.one, prefix="/events", tags=["events"])
    max_bytes |= add_console(app, settings)
    instrument_app(app)
    return app


app = create_app(get_settings())
