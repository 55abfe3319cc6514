"""How a function becomes a verb: its outcome is shown, and decides the exit code."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from lissom.cli import views
from lissom.cli.options import (
    AcceptSource,
    Allow,
    AsJson,
    Debug,
    DryRun,
    Kwargs,
    MaxDrop,
    Out,
    Output,
    Overrides,
    ResultOut,
    RunName,
    Runtimes,
    Seed,
    TaskName,
    UnusedAllow,
    Weights,
)
from lissom.cli.output import Outcome, show, writable
from lissom.cli.progress import TerminalProgress
from lissom.errors import Interrupted
from lissom.options import ACCEPT_VARIABLE, RecipeOptions

if TYPE_CHECKING:
    from lissom.recipe import Recipe

app = typer.Typer(
    name="lissom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Make a torch model small and fast without losing what it knows, measure it, and serve it.\n\n"
    "\b\nlissom run recipes/digits.yaml           train, compress, measure, report\n"
    "lissom serve runs/digits/artifact        answer over HTTP on 127.0.0.1:3000\n"
    "lissom quantize model.onnx --data x.npz  one step, without a recipe",
)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name, keyword-only, with their annotations resolved."""
    hints = get_type_hints(function, include_extras=True)
    return {
        name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
    }


def register(
    name: str, summary: str | None, call: Callable[..., Outcome], own: dict[str, inspect.Parameter]
) -> None:
    """Make a verb of `call`: its outcome is shown, as text or as JSON, and decides the exit code.

    Every verb takes --json, --debug, --out and --allow. A verb without a folder of its own writes its JSON
    document to --out as `<verb>.json`; one that judges no gate accepts --allow, which then changes nothing.
    """
    parameters = {**parameters_of(_every_verb), **own}

    def command(
        *, accept_source: bool = False, as_json: bool = False, debug: bool = False, **arguments: Any
    ) -> int:
        from lissom.models.processes import place
        from lissom.recipe import check_allowed

        check_allowed(arguments["allow"] or ())
        if "out" not in own and arguments["out"] is not None:
            with writable(arguments["out"]):
                pass  # what is measured now has a place
        try:
            with _accepting(accept_source):
                outcome = call(**{key: value for key, value in arguments.items() if key in own})
        except KeyboardInterrupt as exc:  # typer would end without a word
            raise Interrupted(
                "interrupted; finished stages and epochs are kept", hint="the same command goes on from there"
            ) from exc
        if place().leads:
            show(name, outcome, as_json=as_json, folder=None if "out" in own else arguments["out"])
        return outcome.exit_code

    command.__doc__ = summary
    command.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters.values(), key=lambda parameter: parameter.name in parameters_of(_every_verb))
    )
    app.command(name)(command)


@contextmanager
def _accepting(accept_source: bool) -> Iterator[None]:
    """Let changed factories through, in this process and in those that it starts."""
    if not accept_source:
        yield
        return
    before = os.environ.get(ACCEPT_VARIABLE)
    os.environ[ACCEPT_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(ACCEPT_VARIABLE)
        if before is not None:
            os.environ[ACCEPT_VARIABLE] = before


def verb(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Register a function that gives an outcome."""
    register(function.__name__.strip("_"), function.__doc__, function, parameters_of(function))
    return function


def making_verb(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Register a function that gives the fields of a stage: its verb runs the recipe of that one stage."""
    own, common = parameters_of(function), parameters_of(_every_making_verb)

    def call(*, model: str, data: str | None, **arguments: Any) -> Outcome:
        fields = function(model, data, **{key: arguments[key] for key in own if key in arguments})
        options = {key: arguments[key] for key in common}
        return run_single(function.__name__, model, data, fields, options)

    others = {key: parameter for key, parameter in common.items() if key not in own}
    register(function.__name__, function.__doc__, call, own | others)
    return function


def _every_verb(
    *,
    out: ResultOut = None,
    allow: UnusedAllow = None,
    accept_source: AcceptSource = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What every verb takes; only the signature is used."""


def _every_making_verb(
    *,
    kwargs: Kwargs = None,
    weights: Weights = None,
    output: Output = None,
    task: TaskName = None,
    max_drop: MaxDrop = 0.01,
    seed: Seed = 0,
    overrides: Overrides = None,
    runtimes: Runtimes = None,
    name: RunName = None,
    out: Out = None,
    allow: Allow = None,
    dry_run: DryRun = False,
) -> None:
    """What every verb that makes an artifact takes; only the signature is used."""


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from lissom.optional import version as installed

        print(f"lissom {installed('lissom')}")
        raise typer.Exit


def run_recipe(recipe: Recipe, out: Path | None, allow: list[str] | None, dry_run: bool) -> Outcome:
    """Carry out a recipe, or say what that would take."""
    if dry_run:
        from lissom.pipeline import estimate_run

        return views.estimated(recipe, estimate_run(recipe, out=out))
    from lissom.pipeline import run

    return views.finished(run(recipe, out=out, allow=allow or (), progress=TerminalProgress()))


def run_single(
    kind: str, model: str, data: str | None, fields: dict[str, Any], options: dict[str, Any]
) -> Outcome:
    """Run the recipe of one verb."""
    from lissom import verbs
    from lissom.verbs.making import data_of, folder_of

    teacher = fields.pop("teacher", None)
    given = {key: options[key] for key in RecipeOptions.__annotations__ if key in options}
    given["kwargs"] = views.keyword_arguments(options["kwargs"] or ())
    out = folder_of(kind, options["out"], options["name"])
    samples = data_of(kind, model, data, out)
    recipe = verbs.recipe_of(kind, model, samples, given | fields, teacher=teacher)
    if kind == "prune" and options["dry_run"]:
        return views.prune_planned(verbs.plan_prune(recipe, progress=TerminalProgress()))
    if kind == "quantize" and options["dry_run"]:
        return views.quantize_planned(verbs.plan_quantize(recipe, progress=TerminalProgress()))
    return run_recipe(recipe, out, options["allow"], options["dry_run"])
