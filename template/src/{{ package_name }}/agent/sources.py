"""Your sources: webhooks, which other systems call, and pollers, which ask other systems.

For example, deploys from GitHub and the status page of a supplier, with two functions of yours:

    WEBHOOKS: dict[str, Webhook] = {"github": Webhook(GitHub, pushed)}
    POLLERS: dict[str, Poller] = {"status": Poller(60, read_status)}

`docs/sources.md` has the whole example. The secrets of webhooks are in `WEBHOOK_SECRETS`.
"""

from ..core.sources import Poller, Webhook

WEBHOOKS: dict[str, Webhook] = {}
"""By the name in the URL: `POST /webhooks/NAME`, without a key of the service."""

POLLERS: dict[str, Poller] = {}
"""By name; each runs once on its schedule, however many processes run."""
