"""`triad keys …`, in this process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.admission.budgets import Calendar, Charge
from control_plane.admission.file_store import FileStore
from control_plane.auth.keys import PREFIX, KeyStore, Policy
from control_plane.cli import app


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the key file that the commands use."""
    monkeypatch.setenv("TRIAD_SERVING__AUTH__KEY_STORE", str(tmp_path / "keys.db"))
    monkeypatch.setenv("TRIAD_SERVING__AUTH__REQUIRED_SCOPES", "[generate]")
    monkeypatch.setenv("TRIAD_SERVING__RATE_LIMITING__FILE", str(tmp_path / "limits.db"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "keys.db"


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def test_a_key_is_printed_once_and_has_the_required_scopes(file: Path) -> None:
    created = keys("create", "alice")
    assert created.exit_code == 0
    secret = created.stdout.strip()
    assert secret.startswith(PREFIX)
    store = KeyStore(file)
    caller = store.caller(secret)
    store.close()
    assert caller is not None and caller.scopes == {"generate"}
    assert secret.encode() not in file.read_bytes()


def test_a_key_has_the_scopes_and_the_lifetime_that_are_asked_for(file: Path) -> None:
    options = ("--scope", "models", "--scope", "stats", "--days", "0")
    assert keys("create", "bob", *options).exit_code == 0
    store = KeyStore(file)
    (key,) = store.all()
    store.close()
    assert (list(key.scopes), key.state) == (["models", "stats"], "expired")


@pytest.mark.parametrize("scope", ["two words", ""])
def test_a_scope_is_one_word(file: Path, scope: str) -> None:
    refused = keys("create", "carol", "--scope", scope)
    assert refused.exit_code == 1
    assert f"`{scope}` is not one word" in refused.stderr


def test_the_list_says_what_keys_are_for(file: Path) -> None:
    keys("create", "alice")
    keys("create", "bob", "--scope", "models", "--days", "3")
    listed = keys("list").stdout
    assert re.search(r"alice +│ generate +│ all models +│ [-0-9: ]+│ never +│ valid", listed)
    assert re.search(r"bob +│ models +│ all models +│ [-0-9: ]+│ \d{4}-[-0-9: ]+│ valid", listed)
    assert PREFIX not in listed


def test_a_key_has_models_and_limits_of_its_own(file: Path) -> None:
    options = ("--model", "demo", "--model", "other", "--requests-per-minute", "5")
    assert keys("create", "alice", *options).exit_code == 0
    assert "demo other, 5 requests a minute" in keys("list").stdout
    store = KeyStore(file)
    (key,) = store.all()
    assert key.policy == Policy(["demo", "other"], 5, None)
    done = keys("set", key.id, "--tokens-per-minute", "700")
    assert f"{key.id} may use all models, 700 tokens a minute" in done.stderr
    assert store.all()[0].policy == Policy([], None, 700)
    store.close()
    refused = keys("set", "nothing")
    assert refused.exit_code == 1
    assert "no key `nothing`" in refused.stderr
    assert keys("create", "bob", "--requests-per-minute", "0").exit_code == 2


def test_a_key_has_a_priority(file: Path) -> None:
    assert keys("create", "alice", "--priority", "high").exit_code == 0
    assert "all models, high priority" in keys("list").stdout
    store = KeyStore(file)
    (key,) = store.all()
    assert keys("set", key.id, "--priority", "low").exit_code == 0
    assert store.all()[0].policy.priority == "low"
    assert keys("set", key.id).exit_code == 0
    assert store.all()[0].policy.priority is None
    store.close()
    refused = keys("create", "bob", "--priority", "urgent")
    assert refused.exit_code == 2
    assert "'high', 'normal', 'low'" in refused.stderr


def test_a_key_has_budgets_and_the_list_says_what_is_used_of_them(
    file: Path, tmp_path: Path
) -> None:
    options = ("--tokens-per-day", "1000", "--tokens-per-month", "5000")
    assert keys("create", "alice", *options).exit_code == 0
    assert "all models, 5000 tokens a month, 1000 tokens a day" in keys("list").stdout
    assert not (tmp_path / "limits.db").exists()
    store = KeyStore(file)
    (key,) = store.all()
    assert (key.policy.tokens_per_day, key.policy.tokens_per_month) == (1000, 5000)
    month, day = Calendar().budgets(1000, 5000)
    limits = FileStore(tmp_path / "limits.db")
    asyncio.run(limits.take(f"key:{key.id}", [], [Charge(month, 777), Charge(day, 77)]))
    limits.close_file()
    assert "5000 tokens a month (777 used), 1000 tokens a day (77 used)" in keys("list").stdout
    assert keys("set", key.id).exit_code == 0
    assert store.all()[0].policy == Policy([])
    store.close()
    for wrong in ("0", str(10**16)):
        assert keys("create", "bob", "--tokens-per-day", wrong).exit_code == 2


def test_a_key_is_revoked_once(file: Path) -> None:
    keys("create", "alice")
    store = KeyStore(file)
    (key,) = store.all()
    store.close()
    revoked = keys("revoke", key.id)
    assert revoked.exit_code == 0
    assert f"{key.id} is revoked" in revoked.stderr
    again = keys("revoke", key.id)
    assert again.exit_code == 1
    assert f"no key `{key.id}`" in again.stderr
    assert "revoked" in keys("list").stdout


def test_a_file_that_is_no_key_store_is_named(file: Path) -> None:
    file.write_text("no database " * 20)
    refused = keys("list")
    assert refused.exit_code == 1
    assert str(file) in refused.stderr


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    config = tmp_path / "triad.yaml"
    config.write_text("serving:\n  prot: 9000\n")
    refused = keys("list", "--config", str(config))
    assert refused.exit_code == 1
    assert "serving.prot" in refused.stderr
