"""From evidence to a decision: measuring a run, its gates, the report and its pages.

The package is also the verb: `lissom.report(folder)`.
"""

import sys

from lissom.packages import VerbPackage

sys.modules[__name__].__class__ = VerbPackage
