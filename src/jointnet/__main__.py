"""``python -m jointnet`` runs the command line."""

import sys

from jointnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
