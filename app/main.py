"""The root command: what every verb shares, and how each of them ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.console import StdoutClosed, StdoutFailed, flush, forsake_stdout, leave_quietly, say, write_any_letter
from app.errors import ExitCode, bad_input, environment_trouble, exit_code_of
from app.verbs import LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    name="mambalab",
    help="A terminal-first laboratory for Mamba ablations: submit, watch, compare, query.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed while running, 2 bad input, 3 not found, 130 interrupted.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the store. Default: $MAMBALAB_HOME, else the nearest .mambalab upward, else ./.mambalab.",
            envvar="MAMBALAB_HOME",
            show_default=False,
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """A terminal-first laboratory for Mamba ablations: submit, watch, compare, query."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mambalab {installed('mambalab')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.get_help()  # with rich's markup it prints by itself
        raise typer.Exit(ExitCode.BAD_INPUT)
    if home is not None and home.exists() and not home.is_dir():
        bad_input(f"--home: {home} is a file, expected the folder of a store")
    context.obj = home


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a documented code; a defect of ours keeps its traceback."""
    write_any_letter()
    try:
        _check_letters(sys.argv[1:] if arguments is None else arguments)
        outcome = app(args=arguments, prog_name="mambalab", standalone_mode=False)
        flush()
    except StdoutClosed:
        leave_quietly()
    except (KeyboardInterrupt, typer.Abort):
        outcome = ExitCode.INTERRUPTED
    except typer.TyperException as error:
        _explain_usage(error)
        sys.exit(ExitCode.BAD_INPUT)
    except Exception as error:
        code, told = exit_code_of(error), str(error)
        if code is None:
            code, told = ExitCode.FAILED, environment_trouble(error)
            if not told:
                raise
        if isinstance(error, StdoutFailed):
            forsake_stdout()
        say(f"error: {told}")
        sys.exit(code)
    if outcome == ExitCode.INTERRUPTED:
        say("interrupted")
    sys.exit(outcome if isinstance(outcome, int) else ExitCode.DONE)


def _check_letters(arguments: Sequence[str]) -> None:
    """End with bad input where a word is no text: nothing that is stored or asked of the store could hold it."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            bad_input(f"{word!r} holds bytes that are no UTF-8; expected text in the terminal's encoding, UTF-8.")


def _explain_usage(error: typer.TyperException) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if context is None or not message:  # an empty message: the help has been printed already
        say(f"error: {message}" if message else "")
        return
    say(context.get_usage())
    say(f"error: {message}")
    say(f"`{context.command_path} --help` lists what it takes.")
