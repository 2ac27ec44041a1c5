"""The commands ``triad keys …``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from control_plane.auth.caller import PriorityClass
from control_plane.auth.keys import KeyStore, KeyStoreError, Policy, key_file
from control_plane.settings import SettingsError, load_settings
from control_plane.settings.loading import PATH_VARIABLE

app = typer.Typer(no_args_is_help=True, help="API keys, for `auth.enabled`.")
console = Console(stderr=True, highlight=False)

_DAY = 24 * 60 * 60

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar=PATH_VARIABLE, help="The document that says `auth.key_store`."),
]

ModelOption = Annotated[
    list[str] | None,
    typer.Option(help="A model that it may use; several times. Without: all of them."),
]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="Its own limit. Without: that of `rate_limiting`."),
]
PriorityOption = Annotated[
    PriorityClass | None,
    typer.Option(help="The class of its requests, which may ask for a lower one. Without: normal."),
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `triad keys list` shows it.")]


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
    model: ModelOption = None,
    requests_per_minute: LimitOption = None,
    tokens_per_minute: LimitOption = None,
    priority: PriorityOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key, and print it: it is kept as a hash alone, and cannot be shown again."""
    with _store(config) as (store, required):
        scopes = scope or required
        for one in scopes:
            if not one or any(character.isspace() for character in one):
                _fail(f"--scope: `{one}` is not one word")
        lifetime = None if days is None else days * _DAY
        policy = Policy(model or (), requests_per_minute, tokens_per_minute, priority)
        typer.echo(store.create(name, scopes, lifetime, policy))


@app.command("set")
def set_(
    id_: IdArgument,
    model: ModelOption = None,
    requests_per_minute: LimitOption = None,
    tokens_per_minute: LimitOption = None,
    priority: PriorityOption = None,
    config: ConfigOption = None,
) -> None:
    """Say anew what a key may do: what is not given here, it has no more.

    It holds from the key's next request on, for all servers that use the same file.
    """
    policy = Policy(model or (), requests_per_minute, tokens_per_minute, priority)
    with _store(config) as (store, _):
        is_known = store.set_policy(id_, policy)
    if not is_known:
        _fail(f"there is no key `{id_}`")
    console.print(f"{id_} may use {_words(policy)}", markup=False)


@app.command("list")
def list_(config: ConfigOption = None) -> None:
    """Show all keys: not themselves, but what they are for."""
    table = Table("id", "name", "scopes", "may use", "created", "expires", "state")
    with _store(config) as (store, _):
        keys = store.all()
    for key in keys:
        expires = "never" if key.expires is None else _date(key.expires)
        policy = _words(key.policy)
        row = (key.name, " ".join(key.scopes), policy, _date(key.created), expires, key.state)
        table.add_row(key.id, *row)
    Console(highlight=False).print(table)


@app.command()
def revoke(
    id_: IdArgument,
    config: ConfigOption = None,
) -> None:
    """End a key at once, for all servers that use the same file."""
    with _store(config) as (store, _):
        revoked = store.revoke(id_)
    if not revoked:
        _fail(f"there is no key `{id_}` that could be revoked")
    console.print(f"{id_} is revoked")


@contextmanager
def _store(config: Path | None) -> Iterator[tuple[KeyStore, list[str]]]:
    """Open the store, and yield it with the scopes that requests need."""
    try:
        auth = load_settings(config, os.environ).serving.auth
        store = KeyStore(key_file(auth))
    except (SettingsError, KeyStoreError) as error:
        _fail(str(error))
    with closing(store):
        yield store, auth.required_scopes


def _words(policy: Policy) -> str:
    """Return in words what a key may do."""
    limits = [
        f"{limit} {of} a minute"
        for of, limit in (
            ("requests", policy.requests_per_minute),
            ("tokens", policy.tokens_per_minute),
        )
        if limit is not None
    ]
    priority = [] if policy.priority is None else [f"{policy.priority} priority"]
    return ", ".join([" ".join(policy.models) or "all models", *limits, *priority])


def _fail(message: str) -> NoReturn:
    console.print(f"[red]error:[/] {message}", soft_wrap=True)
    raise typer.Exit(1)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
