"""What alembic runs for each migration: our caller's connection and transaction, nothing of its own."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
