"""Run a recipe: fold its stages over artifacts, measure them, judge them, and leave the best one.

    <out>/01-train-<id16>/ ...     one artifact a stage, kept and used again
    <out>/artifact                 link to the chosen one
    <out>/report.json|html|md

An artifact's id is the hash of everything that decides its content, so what is on disk under the right
id is not made again, and a run that was killed goes on at the first stage that is missing.
"""

from lissom.pipeline.estimate import Estimate, StageEstimate, estimate_run
from lissom.pipeline.plan import Planned, model_identity, plan_stages
from lissom.pipeline.preconditions import check_machine, check_splits, load_data
from lissom.pipeline.runner import Result, make_artifacts, preview_stage, run
from lissom.pipeline.workspace import clean, locked

__all__ = [
    "Estimate",
    "Planned",
    "Result",
    "StageEstimate",
    "check_machine",
    "check_splits",
    "clean",
    "estimate_run",
    "load_data",
    "locked",
    "make_artifacts",
    "model_identity",
    "plan_stages",
    "preview_stage",
    "run",
]
