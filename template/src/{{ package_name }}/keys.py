"""Parse and validate the API clients of `API_CLIENTS` and their keys, and the secrets of `WEBHOOK_SECRETS`.

No error message of this module quotes a value: a wrong setting may have a key in any place.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, SecretStr

type Role = Literal["publish", "read", "operate"]
"""What a client may do: publish events, read them, or retry and purge dead letters."""

ROLES: tuple[Role, ...] = get_args(Role.__value__)
FIELDS = frozenset({"key", "roles", "scopes"})
ANONYMOUS = "anonymous"
"""The name of every client if no key is required."""
KEY_NAME_PREFIX = "key-"
"""The prefix of the names of `API_KEYS`; the position of the key in the list follows."""
MIN_KEY_LENGTH = 16  # characters; the rules of production require it
MAX_NAME_LENGTH = 100  # characters; names label metrics
MAX_PREFIX_LENGTH = 200  # characters; prefixes begin scopes
SECRETS_EXAMPLE = '{"github": "..."}, or {"github": ["new", "old"]}'
EXAMPLE = '{"ci": {"key": "...", "roles": ["publish"], "scopes": ["ci/"]}}'


class ApiClient(BaseModel):
    """A client of the API, with its keys, roles and scopes."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    key: list[SecretStr]
    """Each is valid, so that a key can be replaced while clients still use the old one."""
    roles: list[Role]
    scopes: list[str] | None = None
    """The prefixes of its scopes; None for all scopes."""


def parse_clients(value: object) -> dict[str, ApiClient]:
    """Return the clients of a setting, from JSON or from parsed JSON.

    Raises:
        ValueError: the setting is not valid; the message names the client and the remedy.
    """
    if isinstance(value, str):
        value = _parse_json(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"it must be a JSON object with a client for each name: write {EXAMPLE}")
    named = cast("Mapping[str, object]", value)
    return {_check_name(name): _client(name, each) for name, each in named.items()}


def parse_secrets(value: object) -> dict[str, list[SecretStr]]:
    """Return the secrets of webhooks by name, from JSON or from parsed JSON.

    Raises:
        ValueError: the setting is not valid; the message names the webhook and the remedy.
    """
    if isinstance(value, str):
        value = _parse_json(value, SECRETS_EXAMPLE)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"it must be a JSON object with a secret for each webhook: write {SECRETS_EXAMPLE}"
        )
    named = cast("Mapping[str, object]", value)
    return {name: _secrets(name, each) for name, each in named.items()}


def check_keys(keys: Iterable[SecretStr]) -> None:
    """Check that each key can be sent in a header.

    Raises:
        ValueError: a key cannot; the message has its position.
    """
    for number, key in enumerate(keys, 1):
        if problem := _key_problem(key):
            raise ValueError(f"key {number} {problem}")


def check_distinct(keys: Iterable[SecretStr], clients: Mapping[str, ApiClient]) -> None:
    """Check that no two clients share a key: a key must identify its client.

    Raises:
        ValueError: two clients share a key; the message names both.
    """
    owners = {key.get_secret_value(): "API_KEYS" for key in keys}
    for name, client in clients.items():
        for key in client.key:
            other = owners.setdefault(key.get_secret_value(), name)
            if other != name:
                whose = other if other == "API_KEYS" else f"client {other!r}"
                raise ValueError(
                    f"API_CLIENTS: client {name!r} has a key of {whose}: give it one of its own"
                )


def weak_keys(keys: Iterable[SecretStr], clients: Mapping[str, ApiClient]) -> list[str]:
    """Return a sentence for each owner of a key that is too short."""
    owners = {"API_KEYS": list(keys)} | {
        f"API_CLIENTS: client {name!r}": client.key for name, client in clients.items()
    }
    return [
        f"{owner} has a key of fewer than {MIN_KEY_LENGTH} characters, which the rules of production reject:"
        " replace it, for example by the output of `openssl rand -hex 24`"
        for owner, owned in owners.items()
        if any(len(key.get_secret_value()) < MIN_KEY_LENGTH for key in owned)
    ]


def _parse_json(text: str, example: str = EXAMPLE) -> object:
    try:
        return json.loads(text or "{}", object_pairs_hook=_reject_duplicates)
    except json.JSONDecodeError as error:
        message = f"it is not valid JSON ({error.msg} at character {error.pos}): write {example}"
    except RecursionError:
        message = f"it is not valid JSON: write {example}"
    raise ValueError(message)  # outside the block: the cause would quote the whole text


def _reject_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{_quoted(name)} is given twice: keep one")
    return dict(pairs)


def _check_name(name: str) -> str:
    reserved = name == ANONYMOUS or name.startswith((KEY_NAME_PREFIX, "cli:"))
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable() or reserved:
        raise ValueError(
            f"client {_quoted(name)} needs another name: 1 to {MAX_NAME_LENGTH} printable characters, not"
            f" {ANONYMOUS!r}, and not beginning with {KEY_NAME_PREFIX!r} or 'cli:'"
        )
    return name


def _client(name: str, value: object) -> ApiClient:
    if isinstance(value, ApiClient):
        return value
    client = f"client {_quoted(name)}"
    if not isinstance(value, Mapping):
        raise ValueError(f"{client} is not an object: write {EXAMPLE}")
    fields = cast("Mapping[str, object]", value)
    if not FIELDS.issuperset(fields):
        raise ValueError(f"{client} has a field other than key, roles and scopes: remove it")
    scopes = fields.get("scopes")
    return ApiClient(
        key=_keys(client, fields.get("key")),
        roles=_roles(client, fields.get("roles")),
        scopes=None if scopes is None else _scopes(client, scopes),
    )


def _secrets(name: str, value: object) -> list[SecretStr]:
    given = _as_list(value) or [value]
    secrets = [SecretStr(each) if isinstance(each, str) else each for each in given]
    for secret in secrets:
        text = secret.get_secret_value() if isinstance(secret, SecretStr) else ""
        if not text or text != text.strip():
            raise ValueError(
                f"webhook {_quoted(name)} has a secret that is empty, not text, or begins or ends with a"
                f" space: write {SECRETS_EXAMPLE}"
            )
    return secrets


def _keys(client: str, value: object) -> list[SecretStr]:
    given = _as_list(value) or [value]
    keys = [SecretStr(each) if isinstance(each, str) else each for each in given]
    if not all(isinstance(key, SecretStr) for key in keys):
        raise ValueError(f'{client} has no key: give it "key": "..." or "key": ["new", "old"]')
    for key in keys:
        if problem := _key_problem(key):
            raise ValueError(f"{client} has a key that {problem}")
    return keys


def _roles(client: str, value: object) -> list[Role]:
    given = _as_list(value)
    if not given or any(role not in ROLES for role in given):
        names = ", ".join(ROLES)
        raise ValueError(
            f'{client} needs a list of roles, one or more of {names}: "roles": ["read"]'
        )
    return given


def _scopes(client: str, value: object) -> list[str]:
    given = _as_list(value)
    fit = [isinstance(each, str) and 0 < len(each) <= MAX_PREFIX_LENGTH for each in given]
    if not fit or not all(fit) or any("\x00" in each for each in given):
        raise ValueError(
            f'{client} needs a list of scope prefixes: write "scopes": ["ci/"], or omit it for all scopes'
        )
    return given


def _as_list(value: object) -> list[Any]:
    """Return a list unchanged; an empty list for any other value."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _key_problem(key: SecretStr) -> str | None:
    text = key.get_secret_value()
    if not text or text != text.strip():
        return "is empty, or begins or ends with a space: remove that"
    if not text.isprintable() or "\ufffd" in text:
        return "has a character that a header cannot carry: use letters, digits and -._~+/="
    return None


def _quoted(name: str) -> str:
    """Return a name in quotes, truncated: it may be any text."""
    return repr(name[:MAX_NAME_LENGTH])
