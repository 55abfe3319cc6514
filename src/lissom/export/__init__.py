"""From torch to the formats that engines run, and the proof that they compute the same.

The package is also the verb: `lissom.export(model, data)`.
"""

import sys

from lissom.packages import VerbPackage

sys.modules[__name__].__class__ = VerbPackage
