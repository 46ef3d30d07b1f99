"""How long replicas took to become ready."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "starts",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("deployment", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("launcher", sa.String(length=40), nullable=False),
        sa.Column("ready", sa.Float(), nullable=False),
        sa.Column("queue_s", sa.Float(), nullable=False),
        sa.Column("load_s", sa.Float(), nullable=False),
    )
    op.create_index("ix_starts_deployment", "starts", ["deployment"])
