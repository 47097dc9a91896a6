"""One SQLite file: its tables, its migrations, what writes it and what reads it."""
