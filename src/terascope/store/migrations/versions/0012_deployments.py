"""Deployments that were made while the gateway ran, beside those of its configuration."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "deployments",
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("target", sa.String(length=20), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
    )
