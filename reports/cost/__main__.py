"""`python -m reports.cost FOLDER`: draw the tables and charts of a folder of cost records again, predicting nothing.

Exit status: 0 done, 2 bad input.
"""

import sys
from pathlib import Path

from reports.cost.write import draw_folder


def main(arguments: list[str]) -> int:
    """Draw one folder; errors of the user's are told in one line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stdout if arguments == ["--help"] else sys.stderr)
        return 0 if arguments == ["--help"] else 2
    try:
        draw_folder(arguments[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {Path(arguments[0]) / 'tables'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
