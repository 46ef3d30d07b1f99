"""Alembic's way in: `terascope.store.migrate` hands over an open connection."""

from alembic import context

from terascope.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
