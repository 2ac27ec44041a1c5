"""The key store, and ``triad keys``."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from control_plane.auth.keys import KeyStore, KeyStoreError, Policy
from tests.support.server import triad

SCOPES = ("llm:generate", "llm:embed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "keys.db"


def test_a_key_has_a_caller_with_its_scopes(file: Path) -> None:
    store = KeyStore(file)
    one, other = store.create("one", SCOPES), store.create("other", ["x"])
    caller = store.caller(one)
    assert caller is not None
    assert caller.scopes == set(SCOPES)
    assert caller.id == f"key:{store.all()[0].id}"
    assert store.caller(other) != caller
    store.close()


def test_an_older_file_that_others_could_read_is_closed(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    KeyStore(file).close()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not caplog.records
    file.chmod(0o664)
    KeyStore(file).close()
    assert file.stat().st_mode & 0o777 == 0o600
    (record,) = caplog.records
    assert f"{file} was open to other users (mode 664)" in record.getMessage()


@pytest.mark.parametrize("secret", ["", "triad_", "triad_%", "' or 1=1 --", "\udcff", "ä"])
def test_what_is_no_key_has_none(file: Path, secret: str) -> None:
    store = KeyStore(file)
    key = store.create("one", SCOPES)
    assert store.caller(secret) is None
    assert store.caller(key[:-1]) is None
    assert store.caller(key + "x") is None
    store.close()


def test_revoked_and_expired_keys_have_none(file: Path) -> None:
    store = KeyStore(file)
    revoked, short = store.create("revoked", SCOPES), store.create("short", SCOPES, lifetime=0.2)
    assert store.caller(short) is not None
    assert store.revoke(store.all()[0].id)
    assert not store.revoke(store.all()[0].id)
    assert not store.revoke("nothing")
    assert store.caller(revoked) is None
    time.sleep(0.25)
    assert store.caller(short) is None
    assert [key.state for key in store.all()] == ["revoked", "expired"]
    store.close()


def test_what_one_process_does_the_others_see_at_once(file: Path) -> None:
    here, there = KeyStore(file), KeyStore(file)
    key = there.create("one", SCOPES)
    assert here.caller(key) is not None
    there.revoke(there.all()[0].id)
    assert here.caller(key) is None
    here.close()
    there.close()


def test_a_key_carries_its_policy(file: Path) -> None:
    store = KeyStore(file)
    plain = store.create("one", SCOPES)
    key = store.create("two", SCOPES, policy=Policy(["a", "b c"], 5, 100, "high"))
    (one, two) = store.all()
    assert (one.policy, two.policy) == (
        Policy([]),
        Policy(["a", "b c"], 5, 100, "high"),
    )
    caller, other = store.caller(key), store.caller(plain)
    assert caller is not None and other is not None
    assert (caller.models, other.models) == ({"a", "b c"}, None)
    assert (caller.requests_per_minute, caller.tokens_per_minute) == (5, 100)
    assert (caller.priority, other.priority) == ("high", "normal")
    assert store.set_policy(two.id, Policy((), None, 7))
    changed = store.caller(key)
    assert changed is not None
    assert (changed.models, changed.requests_per_minute, changed.tokens_per_minute) == (
        *(None, None),
        7,
    )
    assert not store.set_policy("nothing", Policy())
    store.close()


def test_a_file_of_an_older_release_is_taken(file: Path) -> None:
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "create table keys (id text primary key, digest blob not null unique, "
            "name text not null, scopes text not null, created real not null, expires real, "
            "revoked real)"
        )
        row = ("id", hashlib.sha256(b"triad_old").digest(), "old", "a b", 1.0, None, None)
        connection.execute("insert into keys values (?, ?, ?, ?, ?, ?, ?)", row)
    for _ in range(2):
        store = KeyStore(file)
        caller = store.caller("triad_old")
        assert caller is not None
        assert (caller.scopes, caller.models) == ({"a", "b"}, None)
        assert caller.priority == "normal"
        store.close()


def test_the_file_is_the_owner_s_and_has_no_key(file: Path) -> None:
    store = KeyStore(file)
    key = store.create("one", SCOPES)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    store.close()
    secret = key.removeprefix("triad_").encode()
    assert len(secret) == 43
    assert not any(secret in each.read_bytes() for each in file.parent.iterdir())


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and longer than the header of one: " + "x" * 99)
    for path in (tmp_path, tmp_path / "text", tmp_path / "text" / "keys.db"):
        with pytest.raises(KeyStoreError, match=re.escape(str(path))):
            KeyStore(path)


def keys(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return triad("keys", *arguments, TRIAD_SERVING__AUTH__KEY_STORE=str(file), COLUMNS="120")


@pytest.mark.process
def test_the_command(file: Path) -> None:
    created = keys(file, "create", "Ann", "--days", "30")
    assert re.fullmatch(r"triad_[\w-]{43}\n", created.stdout)
    other = keys(file, "create", "Bob", "--scope", "a", "--scope", "b")
    store = KeyStore(file)
    ann, bob = store.all()
    assert (ann.name, ann.scopes, bob.scopes) == ("Ann", ["llm:generate"], ["a", "b"])
    assert ann.expires == pytest.approx(time.time() + 30 * 24 * 3600, abs=60)
    assert store.caller(other.stdout.strip()) is not None

    assert keys(file, "revoke", bob.id).returncode == 0
    assert store.caller(other.stdout.strip()) is None
    again = keys(file, "revoke", bob.id)
    assert again.returncode == 1
    assert bob.id in again.stderr
    listed = keys(file, "list").stdout
    assert re.search(rf"{ann.id} .*Ann.*llm:generate.*valid", listed)
    assert re.search(rf"{bob.id} .*Bob.*a b.*never.*revoked", listed)
    assert created.stdout.strip() not in listed
    store.close()


@pytest.mark.process
def test_a_file_in_the_home_folder(tmp_path: Path) -> None:
    settings = {"HOME": str(tmp_path), "TRIAD_SERVING__AUTH__KEY_STORE": "~/own.db"}
    assert triad("keys", "create", "Ann", **settings).returncode == 0
    assert (tmp_path / "own.db").is_file()
    del settings["TRIAD_SERVING__AUTH__KEY_STORE"]
    assert triad("keys", "create", "Ann", **settings, XDG_DATA_HOME="").returncode == 0
    assert (tmp_path / ".local" / "share" / "triad" / "keys.db").is_file()


@pytest.mark.process
def test_a_scope_is_a_word(file: Path) -> None:
    refused = keys(file, "create", "Ann", "--scope", "a b")
    assert refused.returncode == 1
    assert "--scope: `a b`" in refused.stderr
