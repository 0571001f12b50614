"""``python -m jaxpurify``: the command."""

import sys

from jaxpurify.cli import main

sys.exit(main())
