"""Vector stores, their files, batches and versions."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "vector_stores",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("kept", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("lasts_days", sa.Integer(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("active", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_vector_stores_project_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_stores")),
    )
    op.create_index("ix_vector_stores_project_id", "vector_stores", ["project", "id"], unique=False)
    _files()
    _batches_and_versions()


def _files() -> None:
    op.create_table(
        "vector_store_files",
        sa.Column("store", sa.String(length=40), nullable=False),
        sa.Column("file", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.String(length=40), nullable=False),
        sa.Column("batch", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("filename", sa.String(length=400), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("error", sa.String(length=40), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("strategy", sa.String(length=10), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("usage", sa.BigInteger(), nullable=False),
        sa.Column("passages", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        _of_a_store("vector_store_files"),
        sa.PrimaryKeyConstraint("store", "file", name=op.f("pk_vector_store_files")),
    )
    op.create_index("ix_vector_store_files_status", "vector_store_files", ["status"], unique=False)
    op.create_index("ix_vector_store_files_batch", "vector_store_files", ["batch"], unique=False)


def _batches_and_versions() -> None:
    op.create_table(
        "vector_store_batches",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("store", sa.String(length=40), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        _of_a_store("vector_store_batches"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_store_batches")),
    )
    op.create_index("ix_vector_store_batches_store", "vector_store_batches", ["store"], unique=False)
    op.create_table(
        "vector_store_versions",
        sa.Column("store", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
        _of_a_store("vector_store_versions"),
        sa.PrimaryKeyConstraint("store", "version", name=op.f("pk_vector_store_versions")),
    )


def _of_a_store(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_store_vector_stores")
    return sa.ForeignKeyConstraint(["store"], ["vector_stores.id"], name=name, ondelete="CASCADE")
