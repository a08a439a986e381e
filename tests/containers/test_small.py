"""A service in a container of 512 MB, API and agent in one process, outlives what hostile clients send."""

import time
from collections.abc import Callable, Generator

import httpx2
import pytest

from demo.render import render, snapshot

from .attack import AT_ONCE, boxes, large, post_all, together, unread_streams
from .stack import Stack, containers, inspect, production_of, until

NAME = "Reflex Try Small"
SMALL = """
services:
  api:
    command: [reflex-try-small, serve]
    environment: {ENVIRONMENT: test, DEFAULT_MODEL: offline, LOG_LEVEL: WARN}
    memswap_limit: 512m
    deploy: {resources: {limits: {memory: 512M}}}
  worker: {deploy: {replicas: 0}}
"""
PEAK = "grep -h VmHWM /proc/[0-9]*/status | sort -k 2 -n | tail -1"  # of the largest process, in kB
FAILURE = {"type": "http.request", "source": "try", "method": "GET", "path": "/failed"}
CALM = 12  # seconds after which a client that does not read is disconnected


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Production's containers, with everything in the one of the API."""
    path = tmp_path_factory.mktemp("project") / NAME.lower().replace(" ", "-")
    render(path, snapshot(tmp_path_factory.mktemp("template") / "reflex"), {"project_name": NAME})
    (path / "small.yaml").write_text(SMALL)
    with production_of(path, "small.yaml", model_key="none-is-needed") as stack:
        stack.compose("up", "--detach", "--wait")
        yield stack


def publish_and_list(stack: Stack, client: httpx2.Client) -> None:
    """Publish 250 events of 0.9 MB into one scope, and list them again and again at once."""
    assert post_all(client, (large(number, "main") for number in range(250)))
    for answer in together(lambda: client.get("/events?limit=1000"), AT_ONCE):
        assert len(answer.content) < 4_100_000
        assert answer.json()["stopped_at"] == "bytes"


def hold_in_many_scopes(stack: Stack, client: httpx2.Client) -> None:
    """Publish three events of 0.9 MB into each of 200 scopes, fewer than the agent acts on."""
    assert post_all(client, (large(number, f"held-{number % 200}") for number in range(600)))


def send_many_small_values(stack: Stack, client: httpx2.Client) -> None:
    """Publish events that take forty times as much memory as text, alone and in a batch, and list them."""
    assert post_all(client, (boxes(number, f"boxes-{number % 40}") for number in range(40)))
    batch = "[" + ",".join(["{}"] * 300_000) + "]"
    headers = {"Content-Type": "application/json"}
    refused = together(
        lambda: client.post("/events/batch", content=batch, headers=headers), AT_ONCE
    )
    assert {each.status_code for each in refused} <= {413, 422, 503}
    together(lambda: client.get("/events?limit=1000"), AT_ONCE)


def read_no_streams(stack: Stack, client: httpx2.Client) -> None:
    """Open 300 streams that nobody reads, half of them from the beginning of the log, and publish."""
    port = int(stack.env["API_PORT"])
    with (
        unread_streams(port, stack.key, 150),
        unread_streams(port, stack.key, 150, last="0"),
    ):
        post_all(client, (large(number, "streams") for number in range(100)))
        time.sleep(CALM)


ATTACKS = [publish_and_list, hold_in_many_scopes, send_many_small_values, read_no_streams]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_small_container_outlives(
    small: Stack, attack: Callable[[Stack, httpx2.Client], None]
) -> None:
    with small.client() as client:
        client.timeout = 60  # the database is busy, and has no more than its own container either
        attack(small, client)
        api = containers(small)["api"]
        peak = int(small.run("docker", "exec", api, "sh", "-c", PEAK).split()[1]) / 1e3
        posted = client.post("/events", json={**FAILURE, "scope": attack.__name__}).json()["id"]
        until(lambda: is_settled(client, posted), "the agent still handles what is sent")

    state = inspect(small, "container", api, "{{.RestartCount}} {{.State.OOMKilled}}")
    print(f"\n{attack.__name__}: the process took at most {peak:.0f} MB so far")
    assert state == "0 false"


def is_settled(client: httpx2.Client, event_id: str) -> bool:
    """Tell whether the agent has seen an event."""
    deliveries = client.get(f"/events/{event_id}").json()["deliveries"]
    return deliveries[0]["status"] in {"held", "completed"}
