"""What the console needs: subscribers can be paused, and the journal keeps what was asked."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, without rewriting the tables."""
    op.execute("ALTER TABLE subscriptions ADD COLUMN paused_at timestamptz")
    op.execute("ALTER TABLE subscriptions ADD COLUMN paused_by text")
    op.execute("ALTER TABLE journal ADD COLUMN asked bytea")


def downgrade() -> None:
    """Drop the columns: paused subscribers claim again."""
    op.execute("ALTER TABLE journal DROP COLUMN asked")
    op.execute("ALTER TABLE subscriptions DROP COLUMN paused_by")
    op.execute("ALTER TABLE subscriptions DROP COLUMN paused_at")
