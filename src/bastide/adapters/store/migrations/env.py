"""Alembic's entry: runs the migrations over the connection it is given by adapters/store/sqlitefile.py."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
