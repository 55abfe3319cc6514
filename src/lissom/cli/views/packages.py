"""How a package looks: its models, the versions that it names, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.cli.output import Outcome, table
from lissom.cli.views.words import size

if TYPE_CHECKING:
    from lissom.artifact import Artifact
    from lissom.serve.packaging import Package, Plan


def package_planned(plan: Plan, out: Path) -> Outcome:
    """What would be written."""
    lines = [*_contents(plan), "", f"about {size(plan.size_bytes)} in {out}; nothing was written"]
    return Outcome(lines, artifact=_only(plan), extra={"package": _document(plan)})


def package_written(package: Package) -> Outcome:
    """What was written, and the commands that serve it."""
    plan, folder = package.plan, package.folder
    lines = [
        *_contents(plan),
        "",
        f"written: {folder}",
        f"  cd {folder} && bentoml serve",
        f"  docker build -t {plan.name} {folder}",
        f"  bentoml serve {package.tag}" if package.tag else f"  cd {folder} && bentoml build",
    ]
    told = _document(plan) | {"tag": package.tag}
    return Outcome(lines, out=folder, artifact=_only(plan), extra={"package": told})


def _only(plan: Plan) -> Artifact | None:
    return plan.artifacts[0] if len(plan.artifacts) == 1 else None


def _contents(plan: Plan) -> list[str]:
    rows = [
        [
            name,
            artifact.manifest.format,
            artifact.manifest.precision,
            size(artifact.size_bytes),
            artifact.digest[:16],
        ]
        for name, artifact in zip(plan.models, plan.artifacts, strict=True)
    ]
    lines = table(["model", "format", "precision", "size", "digest"], rows, right=[3])
    keys = f"hashes of the keys in {plan.keys}" if plan.keys else "none; they are given at the start"
    return [*lines, "", *(f"needs {line}" for line in plan.requirements), f"keys: {keys}"]


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "models": [
            {
                "name": name,
                "id": artifact.id,
                "digest": artifact.digest,
                "path": str(artifact.path),
                "format": artifact.manifest.format,
            }
            for name, artifact in zip(plan.models, plan.artifacts, strict=True)
        ],
        "requirements": list(plan.requirements),
        "python": plan.python,
        "keys": str(plan.keys) if plan.keys else None,
        "size_bytes": plan.size_bytes,
    }
