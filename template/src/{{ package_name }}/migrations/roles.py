"""Creates the role that the service runs as, and grants its rights: it reads and writes rows, and changes no schema.

The owner's role migrates and grants. Each `migrate` creates the service's role if it does not exist, and repeats the
grants, so new databases, existing ones and new tables need no other step.
"""

import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from base64 import b64encode
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from ..config import Settings
from ..infra.database import StartupError
from .digests import DIGESTS
from .histories import HISTORIES

ITERATIONS = 4_096  # of SCRAM-SHA-256, PostgreSQL's default
SALT = 16  # bytes, PostgreSQL's default

# The service may only read these tables: by writing them, it could make migrations skip or repeat revisions.
ONLY_READ = (*(history.version_table for history in HISTORIES), "app_taken_back", DIGESTS)

EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)"
MAY_MAKE_ROLES = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
# The server quotes names and values. Without a password, the role uses another method of authentication.
MAKE = """
SELECT format('CREATE ROLE %I LOGIN', CAST(:role AS text))
    || coalesce(format(' PASSWORD %L', CAST(:verifier AS text)), '')
"""

# Each row is a statement. It grants rights on the owner's tables only; those of extensions have grants of their own.
# CONNECT and USAGE are granted only if they were revoked from PUBLIC.
GRANTS = """
WITH service AS (SELECT CAST(:role AS text) AS role, current_schema() AS place),
mine AS (
    SELECT c.relname, c.relkind = 'S' AS counts, c.relname = ANY (CAST(:only_read AS text[])) AS only_read
      FROM pg_class c
     WHERE c.relnamespace = (SELECT place::regnamespace FROM service)
       AND c.relkind = ANY ('{r,p,v,m,f,S}') AND pg_has_role(c.relowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role)
  FROM service WHERE NOT has_database_privilege(role, current_database(), 'CONNECT')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', place, role)
  FROM service WHERE NOT has_schema_privilege(role, place, 'USAGE')
UNION ALL
SELECT format('GRANT %s %I.%I TO %I',
              CASE WHEN only_read THEN 'SELECT ON TABLE'
                   WHEN counts THEN 'SELECT, USAGE ON SEQUENCE'
                   ELSE 'SELECT, INSERT, UPDATE, DELETE ON TABLE' END, place, relname, role)
  FROM mine, service
UNION ALL
SELECT format('REVOKE INSERT, UPDATE, DELETE ON TABLE %I.%I FROM %I', place, relname, role)
  FROM mine, service WHERE only_read
UNION ALL
SELECT format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT %s TO %I', place, kind, role)
  FROM service, (VALUES ('SELECT, INSERT, UPDATE, DELETE ON TABLES'),
                        ('SELECT, USAGE ON SEQUENCES')) AS later (kind)
"""

# Rights beyond the grants above. PostgreSQL before 15 lets every role create tables in the schema `public`.
EXCESS = """
SELECT CASE WHEN rolsuper THEN 'is a superuser'
            WHEN pg_has_role(rolname, current_user, 'MEMBER') THEN 'is a member of the owner''s role'
            WHEN has_schema_privilege(rolname, current_schema(), 'CREATE')
            THEN format('may create tables in the schema %I', current_schema()) END
  FROM pg_roles WHERE rolname = :role
"""


class Role(NamedTuple):
    """The user of `DATABASE_URL`."""

    name: str
    password: str | None


def service_role(connection: Connection, settings: Settings) -> Role | None:
    """Return the role that the service runs as; None if it is the role of this connection.

    Raises:
        StartupError: `DATABASE_URL` has no user.
    """
    if settings.owner is settings:
        return None
    url = make_url(str(settings.database_url))
    if url.username is None:
        raise StartupError(
            "DATABASE_URL names no user, so nothing can be granted to it: write it as"
            " postgresql+asyncpg://user:password@host:5432/name, or unset DATABASE_MIGRATE_URL."
        )
    if url.username == connection.scalar(text("SELECT current_user")):
        return None
    return Role(url.username, url.password)


def make_role(connection: Connection, role: Role) -> list[str]:
    """Create the role if it does not exist, and return a sentence about that; an existing one keeps its password.

    Raises:
        StartupError: the owner may not create roles.
    """
    if connection.scalar(text(EXISTS), {"role": role.name}):
        return []
    if not connection.scalar(text(MAY_MAKE_ROLES)):
        raise StartupError(
            f"The role {role.name} of DATABASE_URL does not exist, and that of DATABASE_MIGRATE_URL may"
            f" not create it: let an administrator run CREATE ROLE {role.name} LOGIN and set its password,"
            " then run the `migrate` command again."
        )
    verifier = None if role.password is None else verifier_of(role.password)
    made = connection.scalar(text(MAKE), {"role": role.name, "verifier": verifier})
    connection.exec_driver_sql(str(made))
    return [f"role: made {role.name}, which the service runs as"]


def grant(connection: Connection, role: Role) -> list[str]:
    """Grant the rights that the service needs, also on later tables; return a warning about excess rights."""
    wanted = {"role": role.name, "only_read": list(ONLY_READ)}
    for statement in connection.scalars(text(GRANTS), wanted).all():
        connection.exec_driver_sql(statement)
    excess = connection.scalar(text(EXCESS), {"role": role.name})
    return [] if excess is None else [f"The role {role.name} {excess}: the service needs less"]


def verifier_of(password: str) -> str:
    """Return the SCRAM verifier of a password (RFC 5803), so that the server never logs the password."""
    salt = secrets.token_bytes(SALT)
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password).encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [b64encode(each).decode() for each in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"


def _prepared(password: str) -> str:
    """Return a password normalized by SASLprep (RFC 4013), as clients do; ASCII does not change."""
    spaced = ("\N{SPACE}" if stringprep.in_table_c12(each) else each for each in password)
    kept = "".join(each for each in spaced if not stringprep.in_table_b1(each))
    return unicodedata.normalize("NFKC", kept)
