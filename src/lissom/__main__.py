"""`python -m lissom`."""

import sys

from lissom.cli import main

exit_code = main()
# CPython notes a Ctrl-C that left an `exec` of text, as dataclasses and torch.fx call it, and then ends
# `python -m` by SIGINT although the interrupt was handled. The next `exec` of text clears that note.
exec("")
sys.exit(exit_code)
