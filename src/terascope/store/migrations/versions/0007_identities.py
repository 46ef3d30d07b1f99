"""Identities of OpenID Connect issuers, service accounts, keys that work in one project only."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "service_accounts",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_service_accounts_project_projects")),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_service_accounts")),
    )
    op.create_table(
        "identities",
        sa.Column("user_id", sa.String(length=200), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("issued", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_identities")),
    )
    op.add_column("keys", sa.Column("confined", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_keys_project", "keys", ["project"], unique=False)
