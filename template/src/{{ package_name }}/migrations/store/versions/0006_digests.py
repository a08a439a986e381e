"""The code of applied revisions, by which `check` finds one that was edited later."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CREATE = """
CREATE TABLE migration_digests (
    history text NOT NULL,
    revision text NOT NULL,
    digest text NOT NULL,
    PRIMARY KEY (history, revision)
)
"""


def upgrade() -> None:
    """Create the table; `migrate` fills it."""
    op.execute(CREATE)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE migration_digests")
