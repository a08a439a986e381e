"""New deliveries are due at `epoch`, independent of clocks; their indexes are in `migrations/indexes.py`."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATUS = """
CREATE OR REPLACE VIEW event_status AS
SELECT e.id, s.name AS subscriber,
       CASE WHEN d.seq IS NULL THEN CASE WHEN EXISTS (
                SELECT FROM events r
                 WHERE r.type = 'agent.dropped' AND r.scope = e.scope
                   AND r.recorded_at >= e.recorded_at
                   AND r.source = 'agent:' || s.name AND r.payload -> 'covers' ? e.id
            ) THEN 'dropped' ELSE 'completed' END
            WHEN d.dead_at IS NOT NULL THEN 'dlq'
            WHEN d.held_at IS NOT NULL THEN 'held'
            WHEN d.lease IS NOT NULL AND d.due_at > clock_timestamp() THEN 'processing'
            WHEN d.error IS NOT NULL THEN 'failed'
            ELSE 'pending' END AS status,
       coalesce(d.attempts, 0) AS attempts, d.error, {due_at} AS due_at
  FROM events e
  JOIN subscriptions s
    ON (s.types IS NULL OR e.type = ANY (s.types)) AND e.type <> ALL (s.excluded)
  LEFT JOIN deliveries d ON d.subscriber = s.name AND d.seq = e.seq
"""


def upgrade() -> None:
    """Make new deliveries due at `epoch`; existing ones keep their time, which has passed, and come first."""
    op.execute("ALTER TABLE deliveries ALTER COLUMN due_at SET DEFAULT 'epoch'")
    op.execute(STATUS.format(due_at="nullif(d.due_at, 'epoch')"))


def downgrade() -> None:
    """Make new deliveries due at the time of publishing again."""
    op.execute("ALTER TABLE deliveries ALTER COLUMN due_at SET DEFAULT now()")
    op.execute(STATUS.format(due_at="d.due_at"))
    for name in ("deliveries_pending", "deliveries_waiting", "deliveries_claimed"):
        op.execute(f"DROP INDEX IF EXISTS {name}")
    op.execute(
        "CREATE INDEX IF NOT EXISTS deliveries_ready ON deliveries (subscriber, due_at, seq)"
        " WHERE lease IS NULL AND held_at IS NULL AND dead_at IS NULL"
    )
