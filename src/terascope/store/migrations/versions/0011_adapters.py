"""Adapters: versions with a parent, and with a project that owns them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("models", sa.Column("parent", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("models", sa.Column("owner", sa.String(length=64), nullable=False, server_default=""))
