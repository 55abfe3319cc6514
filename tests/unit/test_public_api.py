"""The Python API and the command line are frozen: what they are stands in two files.

A deliberate change is accepted with `LISSOM_ACCEPT=1 python -m pytest tests/unit/test_public_api.py`.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import lissom
from lissom import options
from lissom.cli.app import app

GOLDEN = Path(__file__).parents[1] / "golden"
VERBS = [
    "run",
    "check",
    "train",
    "prune",
    "distill",
    "export",
    "quantize",
    "sensitivity",
    "verify",
    "bench",
    "evaluate",
    "report",
    "inspect",
    "predict",
    "serve",
    "package",
    "clean",
    "doctor",
    "models",
]
MAKERS = ("run", "train", "prune", "distill", "export", "quantize", "sensitivity")

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands
"""Every verb of the command line, as click sees it."""


def public(name: str) -> Any:
    """The public object of a name, whatever has been imported before."""
    home = lissom._HOMES[name]
    return getattr(__import__(home, fromlist=[name]), name)


def parameter_text(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}{annotation}{default}"


def signature_text(function: Any) -> str:
    """As it is written in the source, so that no version of Python or of a library changes it."""
    signature = inspect.signature(function)
    words, keyword_only = [], False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            words.append("*")
        keyword_only |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        words.append(parameter_text(parameter))
    return f"({', '.join(words)}) -> {signature.return_annotation}"


def class_lines(name: str, kind: type) -> Iterator[str]:
    yield f"class {name}({', '.join(base.__name__ for base in kind.__bases__)})"
    if issubclass(kind, BaseModel):
        yield from (f"    {field}: field" for field in kind.model_fields)
    else:
        yield f"    __init__{signature_text(kind.__init__)}"
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(plain):
            yield f"    {member}{signature_text(plain)}"
        elif isinstance(value, property):
            yield f"    {member}: property"


def api_text() -> str:
    lines: list[str] = []
    for name in lissom.__all__:
        found = public(name)
        lines += (
            class_lines(name, found) if inspect.isclass(found) else [f"def {name}{signature_text(found)}"]
        )
    tables = [value for name, value in vars(options).items() if name.endswith("Options")]
    for table in tables:
        lines.append(f"options {table.__name__}")
        lines += [f"    {key}" for key in table.__annotations__]
    return "\n".join(lines) + "\n"


def option_text(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"    {option.metavar} {'required' if option.required else 'optional'}"
    words = ", ".join(option.opts)
    shape = "flag" if option.is_flag else option.metavar or "VALUE"
    notes = [
        *(["required"] if option.required else []),
        *(["repeatable"] if option.multiple else []),
        *(["hidden"] if option.hidden else []),
        *([f"default {option.default}"] if not option.is_flag and option.default is not None else []),
    ]
    return f"    {words}  {shape}" + (f"  ({', '.join(notes)})" if notes else "")


def command_line_text() -> str:
    lines = []
    for name in sorted(COMMANDS):
        lines.append(f"lissom {name}")
        shown = [(option.param_type_name, option_text(option)) for option in COMMANDS[name].params]
        lines += [text for kind, text in shown if kind == "argument"]
        lines += sorted(text for kind, text in shown if kind != "argument")
    return "\n".join(lines) + "\n"


def assert_frozen(name: str, found: str) -> None:
    path = GOLDEN / name
    if os.environ.get("LISSOM_ACCEPT"):
        path.write_text(found)
    assert found == path.read_text(), f"{name} changed; if it was meant, see the top of {__file__}"


def test_the_python_api_is_frozen() -> None:
    assert_frozen("public_api.txt", api_text())


def test_the_command_line_is_frozen() -> None:
    assert_frozen("command_line.txt", command_line_text())


def test_every_public_name_has_a_home_and_a_docstring() -> None:
    assert sorted(lissom.__all__) == lissom.__all__ == sorted(lissom._HOMES)
    for name in lissom.__all__:
        assert inspect.getdoc(public(name)), name


def test_a_public_name_is_the_same_before_and_after_its_subpackages_are_imported() -> None:
    code = (
        "import importlib, pkgutil, lissom\n"
        "before = {name: getattr(lissom, name) for name in lissom.__all__}\n"
        "for module in pkgutil.walk_packages(lissom.__path__, 'lissom.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print([name for name in lissom.__all__ if getattr(lissom, name) is not before[name]])\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lissom' has no attribute 'no_such_name'"):
        getattr(lissom, "no_such_name")  # noqa: B009


def test_the_command_line_has_the_verbs_of_the_contract() -> None:
    assert set(VERBS) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_of_the_command_line_is_a_function_of_the_same_name(name: str) -> None:
    assert name in lissom.__all__
    assert callable(getattr(lissom, name))
    assert inspect.signature(getattr(lissom, name)) == inspect.signature(public(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_takes_what_every_verb_takes(name: str) -> None:
    options = {word for option in COMMANDS[name].params for word in option.opts}
    assert {"--json", "--debug", "--out", "-o", "--allow"} <= options
    flags = {
        option.name: option for option in COMMANDS[name].params if option.opts[0] in ("--json", "--debug")
    }
    assert all(option.is_flag and not option.default for option in flags.values())


@pytest.mark.parametrize("name", MAKERS)
def test_what_makes_artifacts_can_be_tried_dry(name: str) -> None:
    assert "--dry-run" in {word for option in COMMANDS[name].params for word in option.opts}


def test_serve_listens_on_this_machine_alone_unless_it_is_told_otherwise() -> None:
    options = {option.opts[0]: option for option in COMMANDS["serve"].params}
    assert options["--host"].default == "127.0.0.1"
    assert options["--port"].default == 3000


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_says_what_it_does_with_an_example_that_can_be_typed(name: str) -> None:
    text = COMMANDS[name].help
    examples = re.findall(rf"^lissom {name}\b.*", text, flags=re.MULTILINE)
    assert text.splitlines()[0].endswith(".")
    assert examples
    known = {word for option in COMMANDS[name].params for word in option.opts}
    assert set(re.findall(r"(?<=\s)--[a-z-]+", " ".join(examples))) <= known


def test_the_summary_of_every_verb_fits_a_narrow_terminal() -> None:
    width = 80 - max(map(len, COMMANDS)) - 6
    summaries = [command.get_short_help_str(width) for command in COMMANDS.values()]
    assert [summary for summary in summaries if summary.endswith("...")] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name: str) -> None:
    assert [option.name for option in COMMANDS[name].params if not option.help and not option.hidden] == []


def test_the_options_of_a_verb_are_those_of_its_stage() -> None:
    from lissom.recipe import stage_types

    for verb in ("train", "prune", "distill", "export", "quantize"):
        taken = (
            getattr(options, f"{verb.title()}Options").__annotations__.keys()
            - options.Options.__annotations__.keys()
        )
        fields = stage_types()[verb].model_fields.keys() - {"stage", "name", "from_", "teacher"}
        assert taken == fields, verb
