"""The two lines of migrations: `store`, which arrives with updates, and `app`, which is yours."""

from pathlib import Path
from typing import NamedTuple

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from ..infra.database import StartupError

HERE = Path(__file__).parent


class History(NamedTuple):
    """A line of migrations."""

    folder: str
    version_table: str


STORE = History("store", "store_version")
APP = History("app", "app_version")
HISTORIES = (STORE, APP)


def scripts_of(history: History) -> list[Script]:
    """Return the revisions of a history, from the first to the last.

    Raises:
        StartupError: a file cannot be read, or they are no line.
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
            f"The revisions in {_versions(history)} are no line from the first to the last ({error}):"
            " correct their down_revision."
        ) from error


def revision_of(connection: Connection, history: History) -> str | None:
    """Return the revision that the database is at."""
    exists = connection.scalar(text("SELECT to_regclass(:name)"), {"name": history.version_table})
    if exists is None:
        return None
    return connection.scalar(text(f"SELECT version_num FROM {history.version_table}"))


def config_of(history: History, connection: Connection | None = None) -> Config:
    """Return what Alembic has to know of a history."""
    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(_versions(history)))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = history.version_table
    return config


def _versions(history: History) -> Path:
    return HERE / history.folder / "versions"
