"""API keys at rest and at work, their commands, and rates counted by key."""

import concurrent.futures
import hashlib
import hmac
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from countryreward import cli
from countryreward.errors import UserError
from countryreward.serving.http.keys import Caller, KeyStore
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates, SqliteStorage, sqlite_uri
from countryreward.serving.service_config import ServiceConfig

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

ROOT = Path(__file__).parents[2]


def store(folder: Path, poll_s: float = 3_600) -> KeyStore:
    return KeyStore(folder / "state" / "keys.json", poll_s)


def rewrite(keys: KeyStore, key: str, **changes: object) -> None:
    """Change what the file says of a key."""
    told = json.loads(keys.path.read_text())
    told["keys"][key[3:11]] |= changes
    keys.path.write_text(json.dumps(told))


def in_two_processes(code: str) -> list[str]:
    """The outputs of two interpreters that run `code` at the same time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}

    def one(_: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


# Keys


def test_a_key_says_who_calls(tmp_path):
    keys = store(tmp_path)
    key = keys.create("acme", ["score", "batch"], "100/second", 30)
    assert re.fullmatch(r"cr_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", key)
    assert keys.check(key) == Caller(key_id=key[3:11], tenant="acme", scopes=("score", "batch"), rate="100/second")
    (info,) = keys.list()
    assert (info.id, info.tenant, info.state(), info.revoked) == (key[3:11], "acme", "valid", None)
    assert info.expires is not None
    assert info.expires > info.created


def test_the_file_holds_no_key_and_is_its_owners_alone(tmp_path):
    keys = store(tmp_path)
    key = keys.create("acme")
    text = keys.path.read_text()
    assert key not in text
    assert key[12:] not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text
    assert keys.path.stat().st_mode & 0o777 == 0o600
    assert keys.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in keys.path.parent.iterdir()} == {"keys.json", ".keys.json.lock"}


def test_no_key_is_made_where_others_could_make_one(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(UserError, match="chmod 700"):
        store(tmp_path).create("acme")


@pytest.mark.parametrize(
    "presented",
    [
        "",
        "cr_",
        "KEY_ID",
        "cr_KEY_ID_" + "a" * 43,
        "cr_00000000_" + "a" * 43,
        "Bearer",
        "\udcff",
        "ключ",
        "x" * 100_000,
    ],
)
def test_what_is_no_key_is_nobody(tmp_path, presented):
    keys = store(tmp_path)
    key = keys.create("acme")
    assert keys.check(presented.replace("KEY_ID", key[3:11])) is None
    assert keys.check(key + "a") is None
    assert keys.check(" " + key) is None


def test_revoked_and_expired_keys_are_nobody(tmp_path):
    keys = store(tmp_path, poll_s=1e-9)
    revoked, expired, other = keys.create("acme"), keys.create("acme", days=1), keys.create("acme", days=1)
    keys.revoke(revoked[3:11])
    rewrite(keys, expired, expires="2026-01-01T00:00:00+00:00")
    assert keys.check(revoked) is None
    assert keys.check(expired) is None
    assert keys.check(other) is not None
    assert sorted(info.state() for info in keys.list()) == ["expired", "revoked", "valid"]
    when = {info.id: info.revoked for info in keys.list()}[revoked[3:11]]
    keys.revoke(revoked[3:11])
    assert {info.id: info.revoked for info in keys.list()}[revoked[3:11]] == when


def test_unknown_ids_are_compared_in_constant_time_too(tmp_path, monkeypatch):
    keys = store(tmp_path)
    key = keys.create("acme")
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b))
    for presented in (key, key[:-1] + "!", "cr_00000000_" + "a" * 43, "nonsense"):
        keys.check(presented)
    assert compared == [(64, 64)] * 4


def test_a_revocation_takes_effect_within_poll_s_and_the_file_is_looked_at_no_oftener(tmp_path):
    soon, late = store(tmp_path, poll_s=0.05), store(tmp_path, poll_s=3_600)
    key = soon.create("acme")
    assert soon.check(key)
    assert late.check(key)
    store(tmp_path).revoke(key[3:11])
    time.sleep(0.06)
    assert soon.check(key) is None
    assert late.check(key) is not None  # has not looked yet


def test_new_keys_are_taken_while_running(tmp_path):
    running = store(tmp_path, poll_s=1e-9)
    assert running.check("cr_00000000_" + "a" * 43) is None
    assert running.check(store(tmp_path).create("acme")) is not None


def test_without_a_file_no_key_is_valid_and_the_log_says_so_once(tmp_path, caplog):
    keys = store(tmp_path, poll_s=1e-9)
    key = keys.create("acme")
    assert keys.check(key)
    keys.path.unlink()
    assert [keys.check(key), keys.check(key)] == [None, None]
    (line,) = caplog.records
    assert "countryreward keys create" in line.getMessage()


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", '{"keys": {"a": 1}}', '{"keys": {"00000000": {"sha256": "x"}}}', "\xff"]
)
def test_a_broken_file_changes_nothing_for_who_was_known(tmp_path, caplog, broken):
    keys = store(tmp_path, poll_s=1e-9)
    key = keys.create("acme")
    assert keys.check(key)
    keys.path.write_bytes(broken.encode("latin-1"))
    assert keys.check(key) is not None
    assert keys.check(key) is not None
    assert len(caplog.records) == 1
    assert "the keys known before stay valid" in caplog.text
    assert store(tmp_path).check(key) is None  # a service that starts now knows nobody
    with pytest.raises(UserError, match="no file of keys"):
        keys.list()
    with pytest.raises(UserError, match="no file of keys"):
        keys.create("acme")


def test_a_folder_in_the_files_place_is_no_crash(tmp_path):
    (tmp_path / "state" / "keys.json").mkdir(parents=True)
    assert store(tmp_path).check("cr_00000000_" + "a" * 43) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tenant": "Acme"}, "tenant: 'Acme'"),
        ({"tenant": "-acme"}, "tenant: '-acme'"),
        ({"tenant": "a" * 41}, "tenant: "),
        ({"tenant": "acme\n"}, "tenant: "),
        ({"tenant": "acme", "scopes": ["admin"]}, "scope: 'admin'"),
        ({"tenant": "acme", "scopes": []}, "scope: none"),
        ({"tenant": "acme", "rate": "fast"}, "rate: 'fast'"),
        ({"tenant": "acme", "rate": "0/minute"}, "rate: '0/minute'"),
        ({"tenant": "acme", "rate": "5/second;100/hour"}, "rate: "),
        ({"tenant": "acme", "days": -1}, "days: -1"),
        ({"tenant": "acme", "days": 10**9}, "days: "),
    ],
)
def test_wrong_options_are_refused_by_name(tmp_path, options, named):
    with pytest.raises(UserError, match="^" + named):
        store(tmp_path).create(**options)
    assert not (tmp_path / "state").exists()


def test_revoking_an_unknown_id_names_it(tmp_path):
    with pytest.raises(UserError, match="'0a0a0a0a' is not known"):
        store(tmp_path).revoke("0a0a0a0a")


def test_two_processes_that_make_keys_lose_none(tmp_path):
    path = tmp_path / "state" / "keys.json"
    code = (
        "from pathlib import Path\nfrom countryreward.serving.http.keys import KeyStore\n"
        f"for _ in range(10): print(KeyStore(Path({str(path)!r}), 1).create('acme'))"
    )
    made = " ".join(in_two_processes(code)).split()
    keys = store(tmp_path)
    assert len(set(made)) == 20
    assert {info.id for info in keys.list()} == {key[3:11] for key in made}
    assert all(keys.check(key) for key in made)


# Commands


def test_create_shows_the_key_once_and_list_no_secret(tmp_path, capsys):
    state = ["--state", str(tmp_path / "state")]
    cli.main(["keys", "create", "--tenant", "acme", "--scope", "score", "--scope", "batch", *state])
    out, err = capsys.readouterr()
    key = out.strip()
    assert store(tmp_path).check(key) is not None
    assert "Copy the key now" in err
    assert "Authorization: Bearer" in err
    cli.main(["keys", "list", *state])
    listed = capsys.readouterr().out
    assert listed.split()[:5] == [key[3:11], "valid", "acme", "score,batch", "6000/minute"]
    assert key[12:] not in listed
    assert hashlib.sha256(key.encode()).hexdigest() not in listed


def test_revoke_ends_a_key_and_an_unknown_id_is_a_users_error(tmp_path, capsys):
    key = store(tmp_path).create("acme")
    cli.main(["keys", "revoke", key[3:11], "--state", str(tmp_path / "state")])
    assert f"{key[3:11]} is revoked" in capsys.readouterr().out
    assert store(tmp_path).check(key) is None
    with pytest.raises(SystemExit) as left:
        cli.main(["keys", "revoke", "0a0a0a0a", "--state", str(tmp_path / "state")])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: key id: '0a0a0a0a' is not known")


def test_list_of_nothing_says_how_to_begin(tmp_path, capsys):
    cli.main(["keys", "list", "--state", str(tmp_path / "state")])
    assert "keys create --tenant" in capsys.readouterr().out


# Rates


def caller(tenant: str = "acme", key_id: str = "00000001", rate: str = "3/day") -> Caller:
    return Caller(key_id=key_id, tenant=tenant, scopes=("score",), rate=rate)


@pytest.fixture(params=["sqlite", "memory"])
def rates(request, tmp_path) -> Rates:
    return Rates("memory://" if request.param == "memory" else sqlite_uri(tmp_path / "with space" / "rates.sqlite"))


def test_a_window_lets_so_many_through_and_says_when_it_ends(rates):
    for _ in range(3):
        rates.charge(caller())
    with pytest.raises(Problem) as refused:
        rates.charge(caller())
    assert refused.value.code == "rate_limited"
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 86_400


def test_tenants_and_keys_are_counted_apart(rates):
    rates.charge(caller(), 3)
    rates.charge(caller(tenant="other"), 3)
    rates.charge(caller(key_id="00000002"), 3)
    with pytest.raises(Problem):
        rates.charge(caller())


def test_a_refused_large_call_leaves_room_for_small_ones(rates):
    rates.charge(caller(), 2)
    with pytest.raises(Problem):
        rates.charge(caller(), 2)
    rates.charge(caller(), 1)
    with pytest.raises(Problem, match="ask fewer at a time") as never:
        rates.charge(caller(), 4)
    assert never.value.retry_after is None
    rates.charge(caller(), 0)


def test_a_window_that_ended_starts_anew_and_its_row_goes(tmp_path):
    storage = SqliteStorage(sqlite_uri(tmp_path / "rates.sqlite"))
    assert [storage.incr("a", 60), storage.incr("a", 60, 4), storage.get("a")] == [1, 5, 5]
    assert [storage.incr("b", 0), storage.incr("b", 0), storage.get("b")] == [1, 1, 0]
    assert SqliteStorage(sqlite_uri(tmp_path / "rates.sqlite")).incr("c", 60) == 1  # sweeps when it begins
    rows = sqlite3.connect(tmp_path / "rates.sqlite").execute("SELECT key, count FROM counters ORDER BY key").fetchall()
    assert rows == [("a", 5), ("c", 1)]
    assert storage.check()
    storage.clear("a")
    assert storage.get("a") == 0
    assert storage.reset() == 1


def test_two_processes_and_their_threads_add_up_exactly(tmp_path):
    uri = sqlite_uri(tmp_path / "rates.sqlite")
    code = f"""
import concurrent.futures
from countryreward.serving.http.keys import Caller
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
rates = Rates({uri!r})
caller = Caller(key_id="00000001", tenant="acme", scopes=("score",), rate="150/day")
def one(_):
    try:
        rates.charge(caller)
    except Problem:
        return 0
    return 1
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(one, range(100))))
"""
    assert sum(map(int, in_two_processes(code))) == 150
    ((count,),) = sqlite3.connect(tmp_path / "rates.sqlite").execute("SELECT count FROM counters").fetchall()
    assert count == 200


def test_a_storage_that_fails_lets_calls_through_and_says_so_once(tmp_path, caplog):
    (tmp_path / "rates.sqlite").write_bytes(b"this is no database" * 100)
    rates = Rates(sqlite_uri(tmp_path / "rates.sqlite"))
    for _ in range(10):
        rates.charge(caller())
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "no call is refused for its rate" in line.getMessage()


def test_rates_live_where_the_config_says(tmp_path):
    Rates.of(ServiceConfig(state=str(tmp_path / "state"))).charge(caller())
    assert len(list((tmp_path / "state").glob("rates-*.sqlite"))) == 1
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    with pytest.raises(UserError, match="rates: carrierpigeon"):
        Rates.of(ServiceConfig(rates="carrierpigeon://roof"))
