"""The tokens of agents: one per replica that is reached through a tunnel, hashed."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("replicas", sa.Column("agent_hash", sa.String(length=64), nullable=False, server_default=""))
    op.create_index("ix_replicas_agent_hash", "replicas", ["agent_hash"], unique=False)
