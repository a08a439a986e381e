"""The status of dropped events; deliveries of `agent.dropped` only for subscriptions that name it."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Excludes the type for subscribers that exclude actions: older code does not support it.
EXCLUDE = """
UPDATE subscriptions SET excluded = excluded || '{agent.dropped}'
 WHERE 'agent.action' = ANY (excluded) AND NOT 'agent.dropped' = ANY (excluded)
"""
INCLUDE = "UPDATE subscriptions SET excluded = array_remove(excluded, 'agent.dropped')"

STATUS = """
CREATE OR REPLACE VIEW event_status AS
SELECT e.id, s.name AS subscriber,
       CASE WHEN d.seq IS NULL THEN {gone}
            WHEN d.dead_at IS NOT NULL THEN 'dlq'
            WHEN d.held_at IS NOT NULL THEN 'held'
            WHEN d.lease IS NOT NULL AND d.due_at > clock_timestamp() THEN 'processing'
            WHEN d.error IS NOT NULL THEN 'failed'
            ELSE 'pending' END AS status,
       coalesce(d.attempts, 0) AS attempts, d.error, d.due_at
  FROM events e
  JOIN subscriptions s
    ON (s.types IS NULL OR e.type = ANY (s.types)) AND e.type <> ALL (s.excluded)
  LEFT JOIN deliveries d ON d.subscriber = s.name AND d.seq = e.seq
"""

# Evaluated only for settled events: finds a later `agent.dropped` of the scope by the index `events_of_dropped`.
GONE = """
CASE WHEN EXISTS (
         SELECT FROM events r
          WHERE r.type = 'agent.dropped' AND r.scope = e.scope AND r.recorded_at >= e.recorded_at
            AND r.source = 'agent:' || s.name AND r.payload -> 'covers' ? e.id
     ) THEN 'dropped' ELSE 'completed' END
"""


def upgrade() -> None:
    """Show dropped events as dropped instead of completed."""
    op.execute(EXCLUDE)
    op.execute(STATUS.format(gone=GONE))


def downgrade() -> None:
    """Show all events without a delivery as completed."""
    op.execute(STATUS.format(gone="'completed'"))
    op.execute(INCLUDE)
    op.execute("DROP INDEX IF EXISTS events_of_dropped")
