"""Architectures, data, training and evaluation.

The package is also the verb: `lissom.models()`.
"""

import sys

from lissom.packages import VerbPackage

sys.modules[__name__].__class__ = VerbPackage
