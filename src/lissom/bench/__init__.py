"""Measuring: interleaved timing, statistics, and what the machine was like.

The package is also the verb: `lissom.bench(artifacts)`.
"""

import sys

from lissom.packages import VerbPackage

sys.modules[__name__].__class__ = VerbPackage
