"""The commands ``triad keys …``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from control_plane.admission.budgets import Budget, Calendar
from control_plane.admission.usage import tokens_used
from control_plane.auth.caller import PriorityClass
from control_plane.auth.keys import Key, KeyStore, KeyStoreError, Policy, key_file
from control_plane.settings import ServingSettings, SettingsError, load_settings
from control_plane.settings.loading import PATH_VARIABLE

app = typer.Typer(no_args_is_help=True, help="API keys, for `auth.enabled`.")
console = Console(stderr=True, highlight=False)

_DAY = 24 * 60 * 60
_MAX_TOKENS = 10**15
"""A number that every store can count to exactly."""

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
BudgetOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=_MAX_TOKENS,
        help="Its budget of prompts and answers together, by the calendar in UTC. Without: none.",
    ),
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
    tokens_per_day: BudgetOption = None,
    tokens_per_month: BudgetOption = None,
    priority: PriorityOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key, and print it: it is kept as a hash alone, and cannot be shown again."""
    policy = Policy(
        model or (),
        requests_per_minute,
        tokens_per_minute,
        priority,
        tokens_per_day,
        tokens_per_month,
    )
    with _store(config) as (store, settings):
        scopes = scope or settings.auth.required_scopes
        for one in scopes:
            if not one or any(character.isspace() for character in one):
                _fail(f"--scope: `{one}` is not one word")
        lifetime = None if days is None else days * _DAY
        typer.echo(store.create(name, scopes, lifetime, policy))


@app.command("set")
def set_(
    id_: IdArgument,
    model: ModelOption = None,
    requests_per_minute: LimitOption = None,
    tokens_per_minute: LimitOption = None,
    tokens_per_day: BudgetOption = None,
    tokens_per_month: BudgetOption = None,
    priority: PriorityOption = None,
    config: ConfigOption = None,
) -> None:
    """Say anew what a key may do: what is not given here, it has no more.

    It holds from the key's next request on, for all servers that use the same file.
    """
    policy = Policy(
        model or (),
        requests_per_minute,
        tokens_per_minute,
        priority,
        tokens_per_day,
        tokens_per_month,
    )
    with _store(config) as (store, _):
        is_known = store.set_policy(id_, policy)
    if not is_known:
        _fail(f"there is no key `{id_}`")
    console.print(f"{id_} may use {_words(policy)}", markup=False)


@app.command("list")
def list_(config: ConfigOption = None) -> None:
    """Show all keys: not themselves, but what they are for, and how much of their budgets is used.

    Budgets are counted by the server that the settings name.
    """
    table = Table("id", "name", "scopes", "may use", "created", "expires", "state")
    with _store(config) as (store, settings):
        keys = store.all()
    used = _used(settings, keys)
    for key in keys:
        expires = "never" if key.expires is None else _date(key.expires)
        policy = _words(key.policy, used.get(f"key:{key.id}", ()))
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
def _store(config: Path | None) -> Iterator[tuple[KeyStore, ServingSettings]]:
    """Open the store, and yield it with the settings that name it."""
    try:
        settings = load_settings(config, os.environ).serving
        store = KeyStore(key_file(settings.auth))
    except (SettingsError, KeyStoreError) as error:
        _fail(str(error))
    with closing(store):
        yield store, settings


def _words(policy: Policy, used: Sequence[int] = ()) -> str:
    """Return in words what a key may do. ``used``: the tokens that are used of its budgets."""
    words = [" ".join(policy.models) or "all models"]
    if policy.requests_per_minute is not None:
        words.append(f"{policy.requests_per_minute} requests a minute")
    if policy.tokens_per_minute is not None:
        words.append(f"{policy.tokens_per_minute} tokens a minute")
    for budget, tokens in zip_longest(_budgets(policy), used):
        said = "" if tokens is None else f" ({tokens} used)"
        words.append(f"{budget.tokens} tokens a {budget.unit}{said}")
    if policy.priority is not None:
        words.append(f"{policy.priority} priority")
    return ", ".join(words)


def _used(settings: ServingSettings, keys: Sequence[Key]) -> Mapping[str, Sequence[int]]:
    """Return the tokens that are used of each caller's budgets, where that is known."""
    budgets = {f"key:{key.id}": its for key in keys if (its := _budgets(key.policy))}
    return asyncio.run(tokens_used(settings, budgets)) if budgets else {}


def _budgets(policy: Policy) -> Sequence[Budget]:
    return Calendar().budgets(policy.tokens_per_day, policy.tokens_per_month)


def _fail(message: str) -> NoReturn:
    console.print(f"[red]error:[/] {message}", soft_wrap=True)
    raise typer.Exit(1)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
