"""The command ``triad``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from control_plane.auth import commands as keys
from control_plane.engines import ENGINE_NAMES
from control_plane.engines.converter import COMMAND
from control_plane.http.own_address import own_url
from control_plane.reloading.comparison import NoAnswer, compare
from control_plane.serve import ServeError, serve
from control_plane.settings import (
    PATH_VARIABLE,
    Settings,
    SettingsError,
    load_settings,
    require_supported,
)
from control_plane.version import VERSION

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
app.add_typer(keys.app, name="keys")
console = Console(stderr=True, highlight=False)

_ENGINES = f"{', '.join(ENGINE_NAMES[:-1])} or {ENGINE_NAMES[-1]}"

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar=PATH_VARIABLE, help="The `serving:` document, YAML."),
]


@app.command("serve")
def serve_command(
    config: ConfigOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name in the model repository, a folder, or a hub id."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help=f"The engine for that model: {_ENGINES}.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Answer one prompt when ready, to show that it works.")
    ] = False,
) -> None:
    """Start the control plane, and a Triton for it unless `triton.endpoints` names one."""
    # Options are settings like any other, and so reach a reloading server's process as well.
    options = {"MODEL": model, "BACKEND_TYPE": backend, "HOST": host, "PORT": port}
    for key, value in options.items():
        if value is not None:
            os.environ[f"TRIAD_SERVING__{key}"] = str(value)
    if config is not None:
        os.environ[PATH_VARIABLE] = str(config)
    settings = _load(config)
    try:
        serve(settings.serving, console, demo=demo)
    except ServeError as error:
        console.print(f"[red]error:[/] {error}", markup=True, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def check(
    config: ConfigOption = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Address of the server to compare with; by default that of the settings."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TRIAD_TOKEN", help="A token with the scope llm:admin, for that server."
        ),
    ] = None,
) -> None:
    """Check a configuration, and whether this release has all that it asks for; and compare it with
    the server that runs, if one does."""
    serving = _load(config).serving
    console.print("the configuration is valid")
    address = server or own_url(serving)
    try:
        lines = compare(serving, address.rstrip("/"), token)
    except NoAnswer as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return
    if not lines:
        console.print(f"the server at {address} runs with it", markup=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


@app.command(
    "convert",
    # All are the converter's, `--help` among them.
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def convert_command(context: typer.Context) -> None:
    """Export a model to ONNX, verify it, and make its entry for Triton."""
    # Without a terminal to ask at, transformers refuses checkpoints that want to run code.
    raise typer.Exit(subprocess.call([*COMMAND, *context.args], stdin=subprocess.DEVNULL))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


def _load(config: Path | None) -> Settings:
    """Return the settings; where they cannot be used, print why and exit with code 2."""
    try:
        settings = load_settings(config, os.environ)
        require_supported(settings)
    except SettingsError as error:
        console.print("[red]error:[/] the configuration cannot be used")
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    return settings
