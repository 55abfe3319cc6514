"""The verb that makes a project of artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lissom.cli.options import DryRun, FileData
from lissom.cli.output import Outcome
from lissom.cli.registration import verb
from lissom.cli.views.packages import package_planned, package_written


@verb
def package(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]ARTIFACT...", help="Artifacts that are served together. [named as their recipes]"
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder that is written; it must not be there.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the bento and the image. [that of the only model, else of DIR]"),
    ] = None,
    data: FileData = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="API keys whose hashes go along. [given at the start]"),
    ] = None,
    build: Annotated[bool, typer.Option("--build", help="Also make a bento in BentoML's store.")] = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Write a folder that serves artifacts by itself. A BentoML project with a Dockerfile.

    It holds a copy of each artifact with every hash checked, the exact versions of what executes them here,
    and lissom itself where no index has it. It is written whole or not at all.

    \b
    lissom package runs/digits/artifact --out digits-server
    cd digits-server && bentoml serve
    docker build -t digits digits-server
    lissom package runs/digits/artifact --out digits-server --keys keys.txt --build
    lissom package runs/digits/artifact --out digits-server --dry-run
    """
    from lissom import verbs

    if dry_run:
        return package_planned(verbs.plan_package(artifacts, out, name=name, keys=keys, data=data), out)
    return package_written(verbs.package(artifacts, out, name=name, keys=keys, data=data, build=build))
