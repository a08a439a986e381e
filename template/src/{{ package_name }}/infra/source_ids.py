"""Ids of events from webhooks and pollers: of the source's own ids, in a namespace that clients cannot use."""

import re
from hashlib import sha256

from ..core.events import SOURCE_ID_PREFIX

READABLE = re.compile(r"[A-Za-z0-9._:/@=+-]{1,100}")


def source_id(kind: str, name: str, id: str) -> str:
    """Return the id of the event that a source calls `id`; an id that is long or unusual is hashed."""
    if not READABLE.fullmatch(id):
        id = f"sha256-{sha256(id.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return f"{SOURCE_ID_PREFIX}{kind}:{name}:{id}"
