"""`python -m app` is the `mambalab` command."""

from app.main import run

run()
