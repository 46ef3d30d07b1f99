"""Projects, members, policies; keys from before belong to the project `local`, and their holders are its members."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _tables()
    _local_project()


def _tables() -> None:
    op.create_table(
        "projects",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("closed", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_projects")),
    )
    op.create_table(
        "members",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("added", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_members_project_projects")),
        sa.PrimaryKeyConstraint("project", "user_id", name=op.f("pk_members")),
    )
    op.create_index("ix_members_user_id", "members", ["user_id"], unique=False)
    op.create_table(
        "policies",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("modes", sa.JSON(), nullable=False),
        sa.Column("qos", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_policies_project_projects")),
        sa.PrimaryKeyConstraint("project", "model", name=op.f("pk_policies")),
    )
    op.add_column("keys", sa.Column("user_id", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("keys", sa.Column("project", sa.String(length=64), nullable=False, server_default="local"))


def _local_project() -> None:
    connection, now = op.get_bind(), time.time()
    keys = sa.table("keys", sa.column("name"), sa.column("user_id"), sa.column("scopes", sa.JSON))
    projects = sa.table("projects", *map(sa.column, ("name", "title", "created")))
    members = sa.table("members", *map(sa.column, ("project", "user_id", "role", "added")))
    policies = sa.table(
        "policies", sa.column("project"), sa.column("model"), sa.column("modes", sa.JSON), sa.column("qos", sa.JSON)
    )
    everything = {"modes": ["query", "embed", "internals", "tune"], "qos": ["urgent", "interactive", "batch"]}
    connection.execute(sa.insert(projects).values(name="local", title="Everybody on this gateway", created=now))
    connection.execute(sa.insert(policies).values(project="local", model="*", **everything))
    connection.execute(sa.update(keys).values(user_id=keys.c.name))
    found = connection.execute(sa.select(keys.c.name, keys.c.scopes)).all()
    pis = {name for name, scopes in found if "operator" in scopes}
    for name in sorted({name for name, _ in found}):
        role = "pi" if name in pis else "member"
        connection.execute(sa.insert(members).values(project="local", user_id=name, role=role, added=now))
