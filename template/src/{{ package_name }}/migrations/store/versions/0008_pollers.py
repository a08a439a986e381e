"""The table `pollers`: when each last ran, and when it runs again."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

POLLERS = """
CREATE TABLE pollers (
    name         text        PRIMARY KEY,
    due_at       timestamptz NOT NULL,
    resume_at    timestamptz,
    failures     bigint      NOT NULL DEFAULT 0,
    error        text,
    succeeded_at timestamptz
)
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(POLLERS)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE pollers")
