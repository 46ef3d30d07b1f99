"""Allocations, holds, the ledger; prices of model versions; run records say who paid how much."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_SQLITE = "CREATE TRIGGER entries_{0} BEFORE {0} ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
_POSTGRESQL = (
    "CREATE FUNCTION entries_kept() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
    "CREATE TRIGGER entries_kept BEFORE UPDATE OR DELETE ON entries EXECUTE FUNCTION entries_kept()",
)


def upgrade() -> None:
    _allocations()
    _holds()
    _entries()
    _columns()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in [_SQLITE.format(verb) for verb in ("UPDATE", "DELETE")] if sqlite else _POSTGRESQL:
        op.execute(statement)
    columns: list[sa.ColumnClause[object]] = [
        sa.column(name) for name in ("id", "project", "balance", "held", "starts", "note", "created")
    ]
    allocations = sa.table("allocations", *columns, sa.column("unlimited", sa.Boolean))
    note, now = "as much as this gateway can do", time.time()
    local = {"id": "alloc_local", "project": "local", "unlimited": True, "balance": 0, "held": 0, "starts": 0.0}
    op.execute(sa.insert(allocations).values(**local, note=note, created=now))


def _allocations() -> None:
    op.create_table(
        "allocations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("unlimited", sa.Boolean(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("starts", sa.Float(), nullable=False),
        sa.Column("ends", sa.Float(), nullable=True),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.CheckConstraint("held >= 0", name=op.f("ck_allocations_held")),
        sa.CheckConstraint("unlimited OR balance >= held", name=op.f("ck_allocations_overspent")),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_allocations_project_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
    )
    op.create_index(op.f("ix_allocations_project"), "allocations", ["project"], unique=False)


def _holds() -> None:
    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("allocation", sa.String(length=40), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["allocation"], ["allocations.id"], name=op.f("fk_holds_allocation_allocations")),
        sa.PrimaryKeyConstraint("id", "allocation", name=op.f("pk_holds")),
        sqlite_with_rowid=False,
    )


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.String(length=60), nullable=False),
        sa.Column("allocation", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["allocation"], ["allocations.id"], name=op.f("fk_entries_allocation_allocations")),
        sa.PrimaryKeyConstraint("id", "allocation", name=op.f("pk_entries")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_entries_project_day", "entries", ["project", "day"], unique=False)


def _columns() -> None:
    op.add_column("models", sa.Column("active_parameters", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("models", sa.Column("price_prompt", sa.BigInteger(), nullable=True))
    op.add_column("models", sa.Column("price_output", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("project", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("user_id", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("cost", sa.BigInteger(), nullable=False, server_default="0"))
