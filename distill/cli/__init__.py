"""The command line. Commands import what they need when they are called, so that `--help` costs nothing."""

from __future__ import annotations

import os
import sys
import time

import click

from distill.cli.asking import evaluate, predict
from distill.cli.compare import compare
from distill.cli.keeping import cache, status
from distill.cli.running import check, run
from distill.cli.shelf import copy, list_, show
from distill.cli.sweep import sweep
from distill.cli.verify import verify

_LEADERS_TURN = 30.0  # seconds; whichever process ends first, torchrun stops all others


class _Commands(click.Group):
    """Turns what a user can mend into one clear message and its exit code."""

    def invoke(self, context: click.Context) -> object:
        """Runs a command; nothing but a defect of this package ends in a traceback."""
        from distill.errors import DistillError

        try:
            return super().invoke(context)
        except DistillError as error:
            if os.environ.get("RANK", "0") != "0":  # where the leader says it too, its launcher ends this one meanwhile
                time.sleep(_LEADERS_TURN)
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            context.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
            context.exit(0)
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nstopped", err=True)
            context.exit(130)

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order in which they are met."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="distill-toolkit", prog_name="distill")
def main() -> None:
    """Distil and compress transformer checkpoints.

    A recipe takes a teacher checkpoint to a compact one that can be shipped, with a report of what was gained (size,
    speed, memory) and what was kept. Start with: distill run quickstart
    """


for _command in (run, check, status, compare, verify, predict, evaluate, sweep, list_, show, copy, cache):
    main.add_command(_command)
