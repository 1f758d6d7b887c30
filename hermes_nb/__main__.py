"""`python -m hermes_nb`."""

import sys

from hermes_nb.cli import main

sys.exit(main())
