"""The two histories of migrations: `store` belongs to the event store, and `app` is yours."""

from pathlib import Path
from typing import NamedTuple

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from ..infra.database import StartupError

HERE = Path(__file__).parent


class History(NamedTuple):
    """A linear history of migrations."""

    folder: str
    version_table: str


STORE = History("store", "store_version")
APP = History("app", "app_version")
HISTORIES = (STORE, APP)


def scripts_of(history: History) -> list[Script]:
    """Return the revisions of a history, from the first to the last.

    Raises:
        StartupError: a file cannot be read, or the history is not linear.
    """
    try:
        directory = ScriptDirectory.from_config(config_of(history))
        directory.get_current_head()
        return list(directory.walk_revisions())[::-1]
    except SyntaxError as error:
        raise StartupError(
            f"The revision in {error.filename} cannot be read ({error.msg}, line {error.lineno}):"
            " correct it."
        ) from error
    except (CommandError, KeyError) as error:
        raise StartupError(
            f"The revisions in {_versions(history)} are not a linear history ({error}):"
            " correct their down_revision."
        ) from error


def revision_of(connection: Connection, history: History) -> str | None:
    """Return the database's current revision of a history; None before the first."""
    exists = connection.scalar(text("SELECT to_regclass(:name)"), {"name": history.version_table})
    if exists is None:
        return None
    return connection.scalar(text(f"SELECT version_num FROM {history.version_table}"))


def config_of(history: History, connection: Connection | None = None) -> Config:
    """Return the Alembic configuration of a history."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(_versions(history)))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = history.version_table
    return config


def _versions(history: History) -> Path:
    return HERE / history.folder / "versions"
