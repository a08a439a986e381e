"""incidents"""

from alembic import op

revision = "7c1f0a6be2d4"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of incidents; `id` is that of the action that opened it."""
    op.execute("""
        CREATE TABLE incidents (
            id text PRIMARY KEY,
            scope text NOT NULL,
            service text NOT NULL,
            commit text NOT NULL,
            severity text NOT NULL,
            summary text NOT NULL,
            opened_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX incidents_newest ON incidents (opened_at DESC)")


def downgrade() -> None:
    """Undo the change."""
    op.execute("DROP TABLE incidents")
