"""${message}"""

from alembic import op

revision = ${repr(up_revision).replace("'", '"')}
down_revision = ${repr(down_revision).replace("'", '"')}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change. The revision is not applied while this is empty."""
    op.execute("")


def downgrade() -> None:
    """Undo the change."""
    op.execute("")
