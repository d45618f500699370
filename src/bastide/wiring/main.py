"""The `bastide` command: the client's subcommands and those that run things, and what becomes of errors."""

from __future__ import annotations

import sys
from typing import Any

import typer

from bastide.cli.application import app
from bastide.cli.show import CHANGED_NOTHING, err, show_error
from bastide.domain.errors import BastideError
from bastide.wiring import calibrate, commands, simulate

commands.register(app)
simulate.register(app)
calibrate.register(app)

# Newer versions of Typer carry their own copy of click, older ones use click itself: ask which it is.
WrongUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    """Entry point. Exit statuses are in cli/show.py."""
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except BastideError as error:
        sys.exit(show_error(error, getattr(error, "file", None), getattr(error, "after", CHANGED_NOTHING)))
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except typer.Abort:
        sys.exit(130)
    except WrongUsage as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        err.print(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
