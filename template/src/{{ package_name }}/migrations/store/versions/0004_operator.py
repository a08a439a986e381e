"""Deliveries of `operator.action` only for subscriptions that name it."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Excludes the type for subscribers that exclude actions: older code does not support it.
EXCLUDE = """
UPDATE subscriptions SET excluded = excluded || '{operator.action}'
 WHERE 'agent.action' = ANY (excluded) AND NOT 'operator.action' = ANY (excluded)
"""
INCLUDE = "UPDATE subscriptions SET excluded = array_remove(excluded, 'operator.action')"


def upgrade() -> None:
    """Exclude the type from existing subscriptions."""
    op.execute(EXCLUDE)


def downgrade() -> None:
    """Remove the exclusion."""
    op.execute(INCLUDE)
