"""Arguments and options that several verbs take, each with its help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Artifact, .onnx file, built-in name, package.module:factory or path/file.py:factory.",
    ),
]
ArtifactPath = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="Folder of an artifact, or .onnx file.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Built-in name, .npz, .csv or .parquet file, folder, or factory; options after '?', such as "
        "'photos/?image_size=64'.",
    ),
]
OptionalData = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DATA", help="Data; default: what the artifact was made with, noise for a file."
    ),
]
MakingData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="As lissom train --help says. [what an artifact was made with; export: noise for a .onnx file]",
    ),
]
FileData = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Samples with which .onnx files are loaded. [noise]"),
]
RunName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Of the run and of the served model. [that of the verb]"),
]
FileName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Of what is made of a .onnx file. [that of the file]"),
]
FileNames = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="Of what is made of .onnx files: once a model, in order."),
]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder of the run; default: runs/<name>.")
]
ResultOut = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="DIR", help="Also write the JSON document there.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Last line on stdout is one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="GATE",
        help="A gate that may fail: reload, parity, accuracy, not-slower, precision, splits.",
    ),
]
UnusedAllow = Annotated[list[str] | None, typer.Option("--allow", metavar="GATE", hidden=True)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, with an estimate of time and disk.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="a.b=c", help="Change one value; stages go by name: --set stages.prune.ratio=0.3"
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Kwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--kwarg", metavar="KEY=VALUE", help="Keyword argument of the factory: --kwarg 'widths=[32,64]'"
    ),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", help=".safetensors, or .pt/.pth with plain tensors."),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", metavar="NAME", help="Measure on this runtime; may be repeated."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="NAME",
        help="Output that matters where the model gives several by name, or all; default: logits, else the "
        "first.",
    ),
]
AcceptSource = Annotated[
    bool,
    typer.Option(
        "--accept-source",
        help="Go on where the code of a model has changed since, and its answers with it.",
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="classification, regression, language-modelling, package.module:factory or "
        "path/file.py:factory; default: what the labels say.",
    ),
]
MaxDrop = Annotated[float, typer.Option("--max-drop", help="Accuracy that may be lost; 0.01 is one point.")]
RuntimeChoice = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="torch, inductor, aotinductor, onnxruntime, openvino, tensorrt or torch_tensorrt.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu or cuda; default: the usual place of the runtime.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of a call; default: all cores.")
]
