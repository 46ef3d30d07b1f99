"""Charges are on record by commit, and entered in the ledger by who has them of which model."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("entries", sa.Column("requests", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("entries", sa.Column("portions", sa.Text(), nullable=False, server_default=""))
    waiting = op.get_bind().execute(sa.text(_WAITING)).all()
    op.drop_table("charges")
    charges = op.create_table(
        "charges",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("charges", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_charges")),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(charges, [{"id": row[0], "charges": json.dumps([list(row)])} for row in waiting])


_WAITING = """
    SELECT id, project, amount, time, unlimited, user_id, key_id, model, prompt_tokens, output_tokens, block, allocation
    FROM charges
"""
