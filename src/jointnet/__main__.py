"""``python -m jointnet`` runs the command line."""

import sys

from jointnet.cli.main import main

sys.exit(main())
