"""When a scope is evaluated again without an event; its index is in `migrations/indexes.py`."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. A constant default changes no row, so it takes no time on a large table."""
    op.execute("ALTER TABLE scopes ADD COLUMN wake_at timestamptz")
    op.execute("ALTER TABLE deliveries ADD COLUMN admitted boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    """Drop the columns: what waits is evaluated with the next event of its scope."""
    op.execute("DROP INDEX IF EXISTS scopes_waiting")
    op.execute("ALTER TABLE deliveries DROP COLUMN admitted")
    op.execute("ALTER TABLE scopes DROP COLUMN wake_at")
