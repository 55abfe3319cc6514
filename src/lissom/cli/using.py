"""The verbs that look at what was made, and use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lissom.cli import views
from lissom.cli.options import (
    ArtifactPath,
    Device,
    DryRun,
    FileData,
    FileName,
    OptionalData,
    RuntimeChoice,
)
from lissom.cli.output import Outcome, writable
from lissom.cli.progress import TerminalProgress
from lissom.cli.registration import verb
from lissom.options import RangeCheck, ServeOptions

AllowNonfinite = Annotated[
    bool,
    typer.Option(
        "--allow-nonfinite",
        help="Take NaN and infinity. [where calibration samples hold them]",
    ),
]


@verb
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, such as runs/digits.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Folder of the pages. [beside the report; runs for several]"
        ),
    ] = None,
) -> Outcome:
    """Draw the pages of a run again from its report.json. Says the verdict, too.

    Several runs are drawn on one page, the oldest first: their verdicts, and how score, speed and size moved.
    Three or more seeds of one recipe also show which answers compression changes in most trainings.

    \b
    lissom report runs/digits
    lissom report runs/monday runs/tuesday runs/wednesday --out runs
    lissom report runs/seed-0 runs/seed-1 runs/seed-2 --out runs
    """
    from lissom import verbs

    if out is not None:
        with writable(out):
            pass
    if len(folders) > 1:
        place = out or Path("runs")
        return views.reported_several(verbs.history(folders, place, progress=TerminalProgress()), place)
    folder = folders[0]
    found = verbs.report(folder, out=out, progress=TerminalProgress())
    return views.reported(found, out or (folder if folder.is_dir() else folder.parent))


@verb
def inspect_(
    artifact: ArtifactPath,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="PARENT", help="Artifact that it was made from, shown beside it."),
    ] = None,
    data: OptionalData = None,
    name: FileName = None,
    runtime: RuntimeChoice = None,
    device: Device = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", metavar="NAME", help="Whose feature maps are shown. [the first with some]"),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="That are explained. [two of every class, as a minute allows]"),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder of inspect.html and inspect.json.")
    ] = Path("runs/inspect"),
    dry_run: DryRun = False,
) -> Outcome:
    """Show what is known about an artifact, and look inside. Every hash is checked first.

    The page has what answers hang on (Grad-CAM and integrated gradients; parts covered one by one where a
    model has no gradients, as int8, ONNX and OpenVINO), what layers hold and cost, dead units, feature maps
    and gradients over training. With --against both models are asked about the same samples: how far the
    explanations moved, and where most. With --runtime every operator is listed, too, as that engine
    executes it.

    \b
    lissom inspect runs/digits/artifact
    lissom inspect runs/digits/artifact --against runs/digits/01-train-* --out runs/digits/inside
    lissom inspect runs/digits/01-train-* --layer blocks.1.conv1
    lissom inspect runs/digits/artifact --runtime openvino --dry-run
    """
    from lissom import verbs
    from lissom.cli.views.inside import with_page
    from lissom.verbs.files import is_onnx_file

    with writable(out):
        pass
    (found, *parents) = verbs.open_models(
        [artifact, *([against] if against is not None else [])],
        data=data,
        names=None if name is None or against is not None else [name],
        progress=TerminalProgress(),
    )
    listed = runtime is not None or device is not None
    layers = verbs.layers(found, runtime=runtime, device=device) if listed else None
    known = views.executed(found, layers, runtime) if listed else views.inspected(found)
    request = {
        "against": next(iter(parents), None),
        "data": None if is_onnx_file(artifact) else data,  # with which the file was loaded
        "runtime": runtime,
        "layer": layer,
        "num_samples": num_samples,
    }
    return with_page(known, found, request, None if dry_run else out)


@verb
def predict(
    artifact: ArtifactPath,
    data: OptionalData = None,
    name: FileName = None,
    runtime: RuntimeChoice = None,
    allow_nonfinite: AllowNonfinite = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write predictions.csv there.")
    ] = None,
) -> Outcome:
    """Predict the samples of data. The report split of labelled data, every sample of unlabelled data.

    \b
    lissom predict runs/digits/artifact
    lissom predict runs/digits/artifact --data samples.npz --out predictions
    """
    from lissom import verbs

    opened = verbs.open_model(artifact, data=data, name=name, progress=TerminalProgress())
    return views.predicted(opened, data, runtime, out, allow_nonfinite=allow_nonfinite)


@verb
def serve(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]ARTIFACT...", help="Artifacts or .onnx files. [named as their recipes or files]"
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="Name of a model: once an artifact, in their order."),
    ] = None,
    data: FileData = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 3000,
    runtime: RuntimeChoice = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            help="Threads of a call; below all cores, several batches at once. [as measured, else all cores]",
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option("--max-batch", min=1, help="Rows computed at once. [as measured, else 32]"),
    ] = None,
    max_delay_ms: Annotated[
        float | None,
        typer.Option(
            "--max-delay-ms", min=0, help="Milliseconds that a batch waits for more rows at most. [5]"
        ),
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option("--max-waiting", min=1, help="Rows in the queue of a model; more are refused. [1024]"),
    ] = None,
    allow_nonfinite: AllowNonfinite = False,
    range_check: Annotated[
        RangeCheck,
        typer.Option(
            "--range-check",
            help="When /predict gets samples in quite another range than the calibration had: a warning in "
            "the answer, 400, or nothing.",
        ),
    ] = "warn",
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="API keys; needed for any host but this machine."),
    ] = None,
    rate_limit: Annotated[
        float | None, typer.Option("--rate-limit", min=0.01, help="Requests a second of each key.")
    ] = None,
    access_log: Annotated[
        Path | None,
        typer.Option("--access-log", metavar="FILE", help="A line of JSON for each answer; - for stderr."),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain-seconds",
            min=0,
            max=30,
            help="Seconds of answering 503 before it ends, for a balancer to notice.",
        ),
    ] = 0.0,
    keep_alive: Annotated[
        float | None,
        typer.Option(
            "--keep-alive",
            metavar="SECONDS",
            min=0.001,
            max=3600,
            help="Time that a connection is kept open without a request. [5]",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate of the server, PEM: https.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca", metavar="FILE", help="Authority whose certificates clients must show, PEM. [none]"
        ),
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option("--new-key", metavar="NAME", help="Add a key to --keys, show it once, and end."),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="With --new-key: may load and unload models.")
    ] = False,
) -> Outcome:
    """Serve artifacts over HTTP. POST /predict takes raw input, /v2 is the Open Inference Protocol.

    GET / is a page on which the models can be tried, GET /openapi.json lists every route. A path, and every
    link in it, is read anew when a key made with --admin posts to /v2/repository/models/NAME/load.

    Other machines can reach the server only with API keys. Keys are kept as hashes; a line that is removed
    from the file revokes its key within a second. With a certificate the server speaks TLS 1.2 and 1.3;
    without, keys travel in the clear.

    \b
    lissom serve runs/digits/artifact
    curl -s localhost:3000/v2/models/digits
    lissom serve small=runs/train/artifact large=runs/other/artifact
    lissom serve model.onnx --data samples.npz
    lissom serve --new-key ada --keys keys.txt
    lissom serve runs/digits/artifact --host 0.0.0.0 --keys keys.txt --rate-limit 100
    lissom serve runs/digits/artifact --host 0.0.0.0 --keys keys.txt --tls-cert cert.pem --tls-key key.pem
    """
    if new_key is not None:
        return views.key_made(keys, new_key, admin=admin)
    options: ServeOptions = {
        "host": host,
        "port": port,
        "runtime": runtime,
        "threads": threads,
        "max_batch": max_batch,
        "max_delay_ms": max_delay_ms,
        "max_waiting": max_waiting,
        "allow_nonfinite": allow_nonfinite,
        "range_check": range_check,
        "keys": keys,
        "rate_limit": rate_limit,
        "access_log": access_log,
        "drain_seconds": drain_seconds,
        "names": names,
        "data": data,
        "keep_alive": keep_alive,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_ca": tls_ca,
    }
    return views.served(artifacts or (), options)


@verb
def clean(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    dry_run: DryRun = False,
) -> Outcome:
    """Remove what a run's report does not refer to. Artifacts of earlier recipes, half-written files.

    \b
    lissom clean runs/digits --dry-run
    """
    from lissom.pipeline import clean as clean_folder

    return views.cleaned(clean_folder(folder, dry_run=dry_run), folder, dry_run=dry_run)


@verb
def doctor() -> Outcome:
    """Say which runtimes work here, and what to install. Proved by running a tiny model on each.

    \b
    lissom doctor
    """
    return views.examined()


@verb
def models() -> Outcome:
    """List the built-in models and data sets.

    \b
    lissom models
    """
    return views.listed()
