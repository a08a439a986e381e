"""The table in which processes claim maintenance, and in which the last run stands."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CREATE = """
CREATE TABLE maintenance (
    name text PRIMARY KEY,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    deleted bigint NOT NULL DEFAULT 0,
    error text,
    through bigint NOT NULL DEFAULT 0
)
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(CREATE)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE maintenance")
