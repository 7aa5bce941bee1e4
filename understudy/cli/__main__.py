"""`python -m understudy.cli`: the command line where its script is not on the path."""

import sys

from .main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
