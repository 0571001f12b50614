"""``jaxpurify report``: draw the table, figures and report of an evaluation again from its folder."""

import shutil
from typing import Annotated

from tyro import conf

from jaxpurify.cli.options import joined
from jaxpurify.files import expanded, printable


@joined
def report(run: Annotated[conf.Positional[str], conf.arg(metavar="RUN")]) -> int:
    """Draw the table, figures and report of an evaluation again from its folder; nothing is computed anew.

    Args:
        run: The folder that `jaxpurify evaluate` wrote.

    Returns:
        The exit code.
    """
    from jaxpurify.evaluation import Evaluation

    found = Evaluation.load(run)
    found.write()
    print(found.table(width=shutil.get_terminal_size((120, 24)).columns))
    print(f"The report: {printable(expanded(run) / 'report.html')}")
    return 0
