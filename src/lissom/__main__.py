"""`python -m lissom`."""

import sys

from lissom.cli import main

sys.exit(main())
