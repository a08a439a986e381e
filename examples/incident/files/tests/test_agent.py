"""Our agent: what is news, when it opens an incident, whom it pages, and what it stores."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr
from pydantic_ai import RunContext, RunUsage

from my_agent.agent import run_agent
from my_agent.agent.incidents import Incident
from my_agent.agent.paging import page_on_call
from my_agent.agent.sources import deployed, read_alerts
from my_agent.agent.triggers import is_news, trigger
from my_agent.config import Settings
from my_agent.core.context import DecisionContext
from my_agent.core.deps import ReflexDeps
from my_agent.core.events import AlertChangedEvent, DeployFinishedEvent, Event, utc_now
from my_agent.core.outcomes import Act, Drop, Wait
from my_agent.core.sources import Delivery
from my_agent.infra.locks import ScopedLocks
from my_agent.infra.store import EventStore

from .conftest import SOON
from .servers import serving, serving_app


def deploy(minutes_ago: float = 5, commit: str = "4f2d") -> DeployFinishedEvent:
    """A deploy of the shop."""
    then = utc_now() - timedelta(minutes=minutes_ago)
    return DeployFinishedEvent(source="github", timestamp=then, service="shop", commit=commit)


def alert(minutes_ago: float = 0, rule: str = "errors", **fields: Any) -> AlertChangedEvent:
    """An alert of the shop that fires, unless `fields` say otherwise."""
    then = utc_now() - timedelta(minutes=minutes_ago)
    known: dict[str, Any] = {
        "service": "shop",
        "state": "firing",
        "summary": "9 % of requests fail",
    }
    return AlertChangedEvent(source="monitoring", timestamp=then, rule=rule, **{**known, **fields})


def context(*events: Event) -> DecisionContext:
    """A context of the shop with these events."""
    return DecisionContext(scope="service:shop", events=list(events))


# The filter


def test_what_was_reported_before_is_no_news() -> None:
    ctx = context(deploy(9), alert(8))

    assert not is_news(deploy(1), ctx)
    assert not is_news(alert(1, summary="10 % of requests fail"), ctx)


def test_another_version_rule_or_state_is_news() -> None:
    ctx = context(deploy(9), alert(8))

    assert is_news(deploy(1, commit="99aa"), ctx)
    assert is_news(alert(1, rule="latency"), ctx)
    assert is_news(alert(1, state="resolved"), ctx)
    assert is_news(alert(1), context(alert(9), alert(8, state="resolved")))


# The trigger


@pytest.mark.parametrize("events", [(deploy(14), alert(0)), (deploy(0.1), alert(0))])
async def test_an_alert_within_fifteen_minutes_after_a_deploy_opens_an_incident(
    deps: ReflexDeps, events: tuple[Event, ...]
) -> None:
    act = await trigger(context(*events), deps)

    assert isinstance(act, Act)
    assert act.trigger == "incident"


async def test_the_newest_deploy_before_the_alert_is_blamed(deps: ReflexDeps) -> None:
    deploys = deploy(9, "1111"), deploy(8, "2222"), deploy(1, "3333")

    act = await trigger(context(*deploys, alert(5)), deps)

    assert isinstance(act, Act)
    assert isinstance(act.output, Incident)
    assert act.output.commit == "2222"


async def test_a_deploy_waits_for_alerts_and_an_alert_for_its_deploy(deps: ReflexDeps) -> None:
    after_deploy = await trigger(context(deploy(5)), deps)
    after_alert = await trigger(context(alert(0)), deps)

    assert isinstance(after_deploy, Wait)
    assert 11 * 60 < after_deploy.seconds <= 12 * 60
    assert isinstance(after_alert, Wait)
    assert 60 < after_alert.seconds <= 120


@pytest.mark.parametrize("event", [deploy(18), alert(3)])
async def test_what_has_waited_for_long_enough_is_dropped(deps: ReflexDeps, event: Event) -> None:
    drop = await trigger(context(event), deps)

    assert isinstance(drop, Drop)
    assert drop.events == [event]


async def test_an_alert_that_resolves_itself_is_dropped_and_the_deploy_stays(
    deps: ReflexDeps,
) -> None:
    fired, resolved = alert(3), alert(2, state="resolved")

    drop = await trigger(context(deploy(5), fired, resolved), deps)

    assert isinstance(drop, Drop)
    assert drop.events == [fired, resolved]


# The sources


def delivery(kind: str = "deployment_status", **changes: str) -> Delivery:
    """What GitHub sends about a deploy of the shop."""
    body = {
        "repository": {"name": "shop"},
        "deployment": {"sha": "4f2d", "environment": changes.get("environment", "production")},
        "deployment_status": {
            "state": changes.get("state", "success"),
            "created_at": "2026-03-01T09:00:00Z",
        },
    }
    return Delivery("github", "1", {"x-github-event": kind}, json.dumps(body).encode())


def test_a_finished_deploy_to_production_is_an_event() -> None:
    event = deployed(delivery())

    assert isinstance(event, DeployFinishedEvent)
    assert (event.scope, event.commit) == ("service:shop", "4f2d")


def test_other_deliveries_are_ignored() -> None:
    assert deployed(delivery("push")) is None
    assert deployed(delivery(state="pending")) is None
    assert deployed(delivery(environment="staging")) is None


@asynccontextmanager
async def answering(status: int, body: object) -> AsyncGenerator[tuple[str, list[Request]]]:
    """A server with one answer, and the requests that it received."""
    app, received = FastAPI(), list[Request]()

    async def answer(request: Request) -> Response:
        await request.body()
        received.append(request)
        return Response(json.dumps(body), status, media_type="application/json")

    app.add_api_route("/", answer, methods=["GET", "POST"])
    async with serving_app(app) as address:
        yield address, received


def configured(deps: ReflexDeps, **settings: Any) -> ReflexDeps:
    """Dependencies of a decision on the shop with these settings."""
    changed = replace(deps, settings=deps.settings.model_copy(update=settings))
    return changed.within("service:shop", "action-1")


async def test_alerts_are_read_and_one_that_is_wrong_hurts_itself_only(deps: ReflexDeps) -> None:
    fields = {"changed_at": "2026-03-01T09:05:00Z", "service": "shop", "rule": "errors"}
    good = {"id": "a1", "state": "firing", "summary": "9 % of requests fail", **fields}

    async with answering(200, {"alerts": [{"id": "a0"}, good]}) as (address, _):
        found = await read_alerts(configured(deps, alerts_url=address))

    assert [(event.id, event.scope) for event in found] == [("a1:firing", "service:shop")]


async def test_a_monitoring_system_that_fails_fails_the_run(deps: ReflexDeps) -> None:
    async with answering(503, {}) as (address, _):
        with pytest.raises(httpx2.HTTPStatusError):
            await read_alerts(configured(deps, alerts_url=address))

    assert await read_alerts(configured(deps, alerts_url=None)) == []


# The effect


def run_of(deps: ReflexDeps) -> RunContext[ReflexDeps]:
    """A run of the agent."""
    return RunContext(deps=deps, model=deps.model, usage=RunUsage(), tool_call_id="call-1")


async def test_a_decision_that_is_taken_again_pages_with_the_same_key(deps: ReflexDeps) -> None:
    async with answering(202, {}) as (address, received):
        settings = {"pager_url": address, "pager_token": SecretStr("secret")}
        first = await page_on_call(run_of(configured(deps, **settings)), "Payments fail.")
        await page_on_call(run_of(configured(deps, **settings)), "Payments fail since 4f2d.")

    keys = [request.headers["Idempotency-Key"] for request in received]
    assert first == "The person on call was paged."
    assert keys[0] == keys[1]
    assert received[0].headers["Authorization"] == "Bearer secret"


async def test_the_model_learns_that_nobody_was_paged(deps: ReflexDeps) -> None:
    async with answering(500, {}) as (address, received):
        unset = await page_on_call(run_of(configured(deps)), "Payments fail.")
        refused = await page_on_call(run_of(configured(deps, pager_url=address)), "x" * 10_000)
        off = await page_on_call(
            run_of(configured(deps, pager_url=address, effects="off")), "Payments fail."
        )

    assert unset == "Nobody was paged: PAGER_URL is not set."
    assert refused == "The pager refused the page: HTTP 500."
    assert off == "not executed (EFFECTS=off)"
    assert len((await received[0].json())["summary"]) == 500
    assert len(received) == 1


# The whole agent


@asynccontextmanager
async def running(store: EventStore, deps: ReflexDeps, locks: ScopedLocks) -> AsyncGenerator[None]:
    """Run the agent for the block, and stop it gracefully."""
    agent = asyncio.create_task(run_agent(store, deps, locks))
    try:
        yield
        store.drain()
        await asyncio.wait_for(agent, SOON)
    finally:
        agent.cancel()


async def until(store: EventStore, event: Event, status: str) -> None:
    """Wait until an event has a status."""
    async with asyncio.timeout(SOON):
        while (await store.status(event.id))[0].status != status:
            await asyncio.sleep(0.02)


async def test_an_action_and_its_incident_are_written_together_and_a_client_lists_its_own(
    store: EventStore, deps: ReflexDeps, locks: ScopedLocks, settings: Settings
) -> None:
    fired = alert()
    await store.publish_many([deploy(), fired, alert(rule="latency")])

    async with running(store, deps, locks):
        await until(store, fired, "completed")

    clients = {
        name: {"key": f"a-long-key-of-{name}", "roles": ["read"], "scopes": [f"service:{name}"]}
        for name in ("shop", "bank")
    }
    strict = Settings.model_validate(
        settings.model_dump() | {"api_worker": False, "api_clients": clients}
    )
    listed: dict[str, Any] = {}
    async with serving(strict) as address, httpx2.AsyncClient(base_url=address) as client:
        for name in clients:
            headers = {"Authorization": f"Bearer a-long-key-of-{name}"}
            listed[name] = (await client.get("/incidents", headers=headers)).json()
        without = await client.get("/incidents")
    [action] = await store.page(["agent.action"])
    [incident] = listed["shop"]
    assert (incident["id"], incident["commit"]) == (action.id, "4f2d")
    assert listed["bank"] == []
    assert without.status_code == 401


async def test_an_alert_that_resolves_itself_leads_to_nothing(
    store: EventStore, deps: ReflexDeps, locks: ScopedLocks
) -> None:
    released = deploy(20)
    fired, resolved = alert(1), alert(state="resolved")
    await store.publish_many([fired, resolved])

    async with running(store, deps, locks):
        await until(store, resolved, "dropped")
        await store.publish(released)
        await until(store, released, "dropped")

    assert await store.page(["agent.action"]) == []
