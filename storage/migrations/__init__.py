"""Alembic's scripts. Each revision also sets `PRAGMA user_version`, the number that readers compare."""
