"""The root command. Each verb is a module of app.commands; what is heavy is imported in a verb's body."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from app.commands import (
    bench,
    cancel,
    doctor,
    down,
    logs,
    ls,
    presets,
    query,
    retry,
    show,
    submit,
    table,
    task,
    ui,
)
from app.commands import run as run_command
from app.console import say
from app.errors import ExitCode, exit_code_of

app = typer.Typer(
    name="mambalab",
    help="A terminal-first laboratory for Mamba ablations: submit, watch, compare, query.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 failed while running, 2 bad input, 3 not found, 130 interrupted.",
)

app.command("submit", rich_help_panel="Run")(submit.submit)
app.command("run", rich_help_panel="Run")(run_command.run)
app.command("cancel", rich_help_panel="Run")(cancel.cancel)
app.command("retry", rich_help_panel="Run")(retry.retry)
app.command("down", rich_help_panel="Run")(down.down)
app.command("ui", rich_help_panel="Look")(ui.ui)
app.command("ls", rich_help_panel="Look")(ls.ls)
app.command("show", rich_help_panel="Look")(show.show)
app.command("logs", rich_help_panel="Look")(logs.logs)
app.command("table", rich_help_panel="Look")(table.table)
app.command("query", rich_help_panel="Look")(query.query)
app.command("presets", rich_help_panel="Learn")(presets.presets)
app.add_typer(task.app, name="task", rich_help_panel="Learn")
app.command("doctor", rich_help_panel="Learn")(doctor.doctor)
app.add_typer(bench.app, name="bench", rich_help_panel="Learn")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the store. Default: $MAMBALAB_HOME, else the nearest .mambalab upward, else ./.mambalab.",
            envvar="MAMBALAB_HOME",
            show_default=False,
            file_okay=False,
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Set what every verb shares."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mambalab {installed('mambalab')}")
        raise typer.Exit
    context.obj = home


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a documented code; a defect of ours keeps its traceback."""
    try:
        outcome = app(args=arguments, prog_name="mambalab", standalone_mode=False)
        sys.exit(outcome if isinstance(outcome, int) else ExitCode.DONE)
    except click.exceptions.Abort:
        say("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.BAD_INPUT)
    except BrokenPipeError:
        # the reader of our stdout has left (`mambalab ls | head`): nothing is wrong, and nothing more can be written
        sys.stderr.close()
        sys.exit(ExitCode.DONE)
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        say(f"error: {error}")
        sys.exit(code)
