"""Artifacts over HTTP: the Open Inference Protocol and `/predict`, inside a BentoML service.

The package is also the verb: `lissom.serve(artifacts)`.
"""

import sys

from lissom.packages import VerbPackage

sys.modules[__name__].__class__ = VerbPackage
