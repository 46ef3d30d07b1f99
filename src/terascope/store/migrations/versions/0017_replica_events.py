"""What happened to replicas."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "replica_events",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("deployment", sa.String(length=128), nullable=False),
        sa.Column("replica", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica_events")),
    )
    op.create_index("ix_replica_events_deployment_time", "replica_events", ["deployment", "time"], unique=False)
