"""The tool that pages the person on call."""

from pydantic_ai import RunContext

from ..core.deps import ReflexDeps
from ..core.effects import effect

MAX_SUMMARY = 500  # characters; more is cut


@effect
async def page_on_call(ctx: RunContext[ReflexDeps], summary: str) -> str:
    """Page the person on call for the service.

    Args:
        ctx: The run.
        summary: What fails, in at most 500 characters.
    """
    settings = ctx.deps.settings
    if settings.pager_url is None:
        return "Nobody was paged: PAGER_URL is not set."
    headers = {"Idempotency-Key": ctx.deps.call_key(ctx)}
    if settings.pager_token is not None:
        headers["Authorization"] = f"Bearer {settings.pager_token.get_secret_value()}"
    body = {"about": ctx.deps.scope, "summary": summary[:MAX_SUMMARY]}
    response = await ctx.deps.http.post(settings.pager_url, json=body, headers=headers)
    if response.is_success:
        return "The person on call was paged."
    return f"The pager refused the page: HTTP {response.status_code}."
