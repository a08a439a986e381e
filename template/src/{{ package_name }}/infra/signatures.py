"""Verifies the signatures of webhooks: GitHub, Stripe, Slack and Standard Webhooks.

A verifier is made with the secrets of one webhook, of which several are valid while one replaces another. All of them
are tried, and compared in constant time. A verifier of your own needs the same three members.
"""

import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol, cast

from pydantic_core import from_json
from standardwebhooks import Webhook as StandardWebhook

from ..core.units import Seconds

MAX_DIFFERENCE: Seconds = 300.0  # between a delivery's time and the clock, in both directions
TIME = re.compile("[0-9]{1,12}")
STANDARD_PREFIX = "whsec_"

type Headers = Mapping[str, str]
"""The headers of a request, by their names in lower case."""


class WrongSignature(ValueError):
    """The delivery is not from the sender, or not of this time. The message names the header and the remedy."""


class Verified(NamedTuple):
    """What a verifier read in a delivery whose signature is right."""

    id: str | None
    """The sender's id, which is the same when the delivery is repeated; None if it has none."""
    challenge: str | None = None
    """The text that the sender expects as the answer, when it only checks the address."""


class Verifier(Protocol):
    """Verifies the deliveries of one sender."""

    headers: Sequence[str]
    """The headers that it reads, for the API's documentation."""

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:
        """Verify a delivery that arrived at `now`, in seconds since 1970.

        Raises:
            WrongSignature: it is not signed with any of the secrets, or its time differs from `now` too much.
        """
        ...


type MakeVerifier = Callable[[Sequence[str]], Verifier]
"""Returns a verifier for these secrets.

Raises:
    ValueError: a secret is not one of the sender's; the message begins with *it* and has the remedy.
"""


class GitHub:
    """Verifies `X-Hub-Signature-256`. GitHub signs neither a time nor the id of the delivery."""

    headers: Sequence[str] = ("X-Hub-Signature-256", "X-GitHub-Delivery")

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = _keys(secrets)

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:
        """Verify a delivery; its id is `X-GitHub-Delivery`."""
        sent = _header(headers, "X-Hub-Signature-256")
        expected = [f"sha256={_sign(key, body)}" for key in self._keys]
        _require_match("X-Hub-Signature-256", [sent], expected)
        return Verified(headers.get("x-github-delivery"))


class Stripe:
    """Verifies `Stripe-Signature`: a time, and a signature for each of the endpoint's secrets."""

    headers: Sequence[str] = ("Stripe-Signature",)

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = _keys(secrets)

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:
        """Verify a delivery; its id is that of the event in its body."""
        parts = [part.partition("=") for part in _header(headers, "Stripe-Signature").split(",")]
        times = [value for name, _, value in parts if name.strip() == "t"]
        time = _check_time("Stripe-Signature", times[0] if times else "", now)
        signed = time.encode() + b"." + body
        sent = [value for name, _, value in parts if name.strip() == "v1"]
        _require_match("Stripe-Signature", sent, [_sign(key, signed) for key in self._keys])
        return Verified(_field(body, "id"))


class Slack:
    """Verifies `X-Slack-Signature`, and answers the check of the address that Slack makes once."""

    headers: Sequence[str] = ("X-Slack-Signature", "X-Slack-Request-Timestamp")

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = _keys(secrets)

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:
        """Verify a delivery; its id is the `event_id` of its body. Commands and buttons have none."""
        sent = _header(headers, "X-Slack-Signature")
        name = "X-Slack-Request-Timestamp"
        time = _check_time(name, _header(headers, name), now)
        signed = b"v0:" + time.encode() + b":" + body
        _require_match(
            "X-Slack-Signature", [sent], [f"v0={_sign(key, signed)}" for key in self._keys]
        )
        if _field(body, "type") == "url_verification":
            return Verified(None, _field(body, "challenge"))
        return Verified(_field(body, "event_id"))


class StandardWebhooks:
    """Verifies `Webhook-Signature`, as many services send it: https://www.standardwebhooks.com."""

    headers: Sequence[str] = ("Webhook-Id", "Webhook-Timestamp", "Webhook-Signature")

    def __init__(self, secrets: Sequence[str]) -> None:
        # The library's `verify` fails at a part that is malformed, reads the clock itself and expects UTF-8.
        self._webhooks = [StandardWebhook(_standard_key(secret)) for secret in secrets]

    def verify(self, headers: Headers, body: bytes, now: float) -> Verified:
        """Verify a delivery; its id is `Webhook-Id`."""
        name = _header(headers, "Webhook-Id")
        sent = _header(headers, "Webhook-Signature").split(" ")
        time = _header(headers, "Webhook-Timestamp")
        seconds = int(_check_time("Webhook-Timestamp", time, now))
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise WrongSignature("body: it is not UTF-8, so it was not signed; send it") from None
        moment = datetime.fromtimestamp(seconds, UTC)
        expected = [webhook.sign(name, moment, text) for webhook in self._webhooks]
        _require_match("Webhook-Signature", sent, expected)
        return Verified(name)


def _keys(secrets: Iterable[str]) -> list[bytes]:
    return [secret.encode() for secret in secrets]


def _standard_key(secret: str) -> bytes:
    """Return the key that a secret of Standard Webhooks encodes.

    Raises:
        ValueError: it is not Base64.
    """
    text = secret.removeprefix(STANDARD_PREFIX)
    try:
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:  # outside the block: the cause could quote the secret
        key = b""
    if not key:
        raise ValueError(f"it is not Base64 after {STANDARD_PREFIX}: copy it from the sender again")
    return key


def _header(headers: Headers, name: str) -> str:
    value = headers.get(name.lower())
    if not value:
        raise WrongSignature(f"{name}: it is missing; sign the delivery with the webhook's secret")
    return value


def _check_time(name: str, value: str, now: float) -> str:
    """Return the time of a delivery, in seconds since 1970, as it was sent."""
    if not TIME.fullmatch(value):
        raise WrongSignature(f"{name}: it has no time in seconds since 1970; send one")
    if abs(now - int(value)) > MAX_DIFFERENCE:
        raise WrongSignature(
            f"{name}: its time differs from this service's by more than {MAX_DIFFERENCE:g} s; send the"
            " delivery anew, and compare the clocks"
        )
    return value


def _sign(key: bytes, signed: bytes) -> str:
    return hmac.digest(key, signed, hashlib.sha256).hex()


def _require_match(name: str, sent: Iterable[str], expected: Iterable[str]) -> None:
    """Compare all that was sent with all that is expected: the time it takes reveals neither."""
    given = [value.strip().encode("utf-8", "surrogatepass") for value in sent]
    right = [value.encode() for value in expected]
    matches = [hmac.compare_digest(one, other) for one in given for other in right]
    if not any(matches):
        raise WrongSignature(
            f"{name}: the signature is wrong; sign the body as it is sent, with the webhook's secret"
        )


def _field(body: bytes, name: str) -> str | None:
    """Return a text field of a JSON object; None if the body has none."""
    try:
        parsed = from_json(body)
    except ValueError:
        return None
    value = cast("dict[str, object]", parsed).get(name) if isinstance(parsed, dict) else None
    return value if isinstance(value, str) else None
