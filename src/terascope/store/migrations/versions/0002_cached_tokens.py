"""Run records say how many tokens of the prompt the engine had computed before."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("runs", sa.Column("cached_tokens", sa.Integer(), nullable=False, server_default="0"))
