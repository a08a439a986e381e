"""The tables of durable decisions: `decisions` pins those under way, and `journal` keeps their finished units."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

DECISIONS = """
CREATE TABLE decisions (
    subscriber text        NOT NULL,
    scope      text        NOT NULL,
    action_id  text        NOT NULL UNIQUE,
    begun_at   timestamptz NOT NULL,
    seq        bigint      NOT NULL,
    seqs       bigint[]    NOT NULL,
    waiting    text[],
    expires_at timestamptz,
    PRIMARY KEY (subscriber, scope)
)
"""

JOURNAL = """
CREATE TABLE journal (
    action_id   text        NOT NULL,
    key         text        NOT NULL,
    nth         int         NOT NULL,
    scope       text        NOT NULL,
    entry       bytea       NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (action_id, key, nth)
)
"""


def upgrade() -> None:
    """Create the tables. Entries have no foreign key, since they outlive their decision."""
    op.execute(DECISIONS)
    op.execute(JOURNAL)
    op.execute("CREATE INDEX journal_by_time ON journal (recorded_at)")
    op.execute("CREATE INDEX journal_by_scope ON journal (scope)")


def downgrade() -> None:
    """Drop the tables: decisions under way start again, and pay again."""
    op.execute("DROP TABLE journal")
    op.execute("DROP TABLE decisions")
