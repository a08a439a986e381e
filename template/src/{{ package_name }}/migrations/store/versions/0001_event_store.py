"""The event store: log, deliveries, subscriptions, scopes."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UPGRADE = (
    """
    CREATE TABLE events (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE,
        type text NOT NULL,
        source text NOT NULL,
        scope text NOT NULL,
        timestamp timestamptz NOT NULL,
        payload jsonb NOT NULL,
        headers jsonb NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        tx xid8 NOT NULL DEFAULT pg_current_xact_id()
    )
    """,
    "CREATE INDEX events_by_time ON events (timestamp, seq)",
    "CREATE INDEX events_by_commit ON events (tx, seq)",
    "CREATE INDEX events_of_action ON events (scope, recorded_at) WHERE type = 'agent.action'",
    """
    CREATE TABLE deliveries (
        seq bigint NOT NULL,
        subscriber text NOT NULL,
        scope text NOT NULL,
        due_at timestamptz NOT NULL DEFAULT now(),
        attempts bigint NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        lease text,
        held_at timestamptz,
        dead_at timestamptz,
        error text,
        traceback text,
        PRIMARY KEY (seq, subscriber)
    ) WITH (
        fillfactor = 70,
        autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.2,
        autovacuum_analyze_scale_factor = 0,
        autovacuum_analyze_threshold = 5000
    )
    """,
    """
    CREATE INDEX deliveries_ready ON deliveries (subscriber, due_at, seq)
     WHERE lease IS NULL AND held_at IS NULL AND dead_at IS NULL
    """,
    "CREATE INDEX deliveries_leased ON deliveries (subscriber, due_at) WHERE lease IS NOT NULL",
    """
    CREATE INDEX deliveries_held ON deliveries (subscriber, scope, seq)
     WHERE held_at IS NOT NULL
    """,
    "CREATE INDEX deliveries_dead ON deliveries (subscriber, dead_at) WHERE dead_at IS NOT NULL",
    """
    CREATE TABLE subscriptions (
        name text PRIMARY KEY,
        types text[],
        excluded text[] NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE scopes (
        subscriber text NOT NULL,
        scope text NOT NULL,
        version bigint NOT NULL DEFAULT 0,
        scratch jsonb NOT NULL DEFAULT '{}',
        last_action_at timestamptz,
        PRIMARY KEY (subscriber, scope)
    )
    """,
    """
    CREATE TABLE model_usage (
        hour timestamptz PRIMARY KEY,
        requests bigint NOT NULL,
        tokens bigint NOT NULL,
        cost numeric NOT NULL
    )
    """,
    # Inserted here, so that events published before the first worker starts get deliveries.
    """
    INSERT INTO subscriptions (name, excluded) VALUES ('agent', '{agent.action,lifecycle}')
    """,
    """
    CREATE VIEW event_status AS
    SELECT e.id, s.name AS subscriber,
           CASE WHEN d.seq IS NULL THEN 'completed'
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
    """,
)

DOWNGRADE = (
    "DROP VIEW event_status",
    "DROP TABLE model_usage",
    "DROP TABLE scopes",
    "DROP TABLE subscriptions",
    "DROP TABLE deliveries",
    "DROP TABLE events",
)


def upgrade() -> None:
    """Create the tables, their indexes and the view of statuses."""
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    """Drop all tables, events included."""
    for statement in DOWNGRADE:
        op.execute(statement)
