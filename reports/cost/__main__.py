"""`python -m reports.cost FOLDER`: draw the tables and charts of a folder of cost records again, predicting nothing.

Exit status: 0 done, 2 bad input, 3 interrupted, 4 a fault of our own (with --debug: where).
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from l2p.ending import run_command
from reports.cost.write import draw_folder

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="what `python -m bench cost --paper --out FOLDER` wrote")],
) -> None:
    """Draw the tables and charts of a folder of cost records again, predicting nothing.

    Example: python -m reports.cost runs/cost-paper
    """
    draw_folder(folder)
    typer.echo(f"written to {folder / 'tables'}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(app, arguments, name="python -m reports.cost")


if __name__ == "__main__":
    sys.exit(main())
