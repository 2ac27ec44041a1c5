"""The commands ``triad keys …``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from control_plane.auth.keys import KeyStore, KeyStoreError, key_file
from control_plane.settings import SettingsError, load_settings
from control_plane.settings.loading import PATH_VARIABLE

app = typer.Typer(no_args_is_help=True, help="API keys, for `auth.enabled`.")
console = Console(stderr=True, highlight=False)

_DAY = 24 * 60 * 60

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar=PATH_VARIABLE, help="The document that says `auth.key_store`."),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for `triad keys list`.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it is for; several times. Without: `auth.required_scopes`."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, help="How long it is valid. Without: for ever.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a key, and print it: it is kept as a hash alone, and cannot be shown again."""
    store, required = _open(config)
    scopes = scope or required
    for one in scopes:
        if not one or any(character.isspace() for character in one):
            _fail(f"--scope: `{one}` is not one word")
    typer.echo(store.create(name, scopes, None if days is None else days * _DAY))


@app.command("list")
def list_(config: ConfigOption = None) -> None:
    """Show all keys: not themselves, but what they are for."""
    store, _ = _open(config)
    table = Table("id", "name", "scopes", "created", "expires", "state")
    for key in store.all():
        expires = "never" if key.expires is None else _date(key.expires)
        row = (key.id, key.name, " ".join(key.scopes), _date(key.created), expires, key.state)
        table.add_row(*row)
    Console(highlight=False).print(table)


@app.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `triad keys list` shows it.")],
    config: ConfigOption = None,
) -> None:
    """End a key at once, for all servers that use the same file."""
    store, _ = _open(config)
    if not store.revoke(id_):
        _fail(f"there is no key `{id_}` that could be revoked")
    console.print(f"{id_} is revoked")


def _open(config: Path | None) -> tuple[KeyStore, list[str]]:
    """Return the store, and the scopes that requests need."""
    try:
        auth = load_settings(config, os.environ).serving.auth
        return KeyStore(key_file(auth)), auth.required_scopes
    except (SettingsError, KeyStoreError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    console.print(f"[red]error:[/] {message}", soft_wrap=True)
    raise typer.Exit(1)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
