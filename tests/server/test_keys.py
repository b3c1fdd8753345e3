"""API keys: who is let in, what a file of keys may hold, and when a server may go without."""

from __future__ import annotations

import gc
import hashlib
import hmac
import logging
from pathlib import Path

import pytest

from ringlight.core.errors import InvalidSetting
from ringlight.core.settings import ServeSettings
from ringlight.server.http.http_error import HttpError
from ringlight.server.safety import keys as module
from ringlight.server.safety.keys import ApiKeys, check_exposure, is_loopback

ALICE, BOB, BARE = "alice-0123456789abcdef", "bob:with:colons-0123456789", "bare-key-0123456789"


def key_file(folder: Path, content: str, mode: int = 0o600) -> ServeSettings:
    path = folder / "keys"
    path.write_text(content)
    path.chmod(mode)
    return ServeSettings(api_key_file=str(path))


def keys(*lines: str) -> ApiKeys:
    return ApiKeys.from_settings(ServeSettings(api_key=lines))


def test_each_key_has_its_owner(tmp_path: Path) -> None:
    settings = key_file(tmp_path, f"# keys of the lab\n\n  alice:{ALICE}  \nbob : {BOB}\n{BARE}\n")
    known = ApiKeys.from_settings(settings)
    assert len(known) == 3
    assert known.identify(f"Bearer {ALICE}") == "alice"
    assert known.identify(f"bearer   {BOB} ") == "bob"
    assert known.identify(f"Bearer {BARE}") == f"key-{hashlib.sha256(BARE.encode()).hexdigest()[:8]}"


def test_keys_of_file_and_environment_stand_beside_each_other(tmp_path: Path) -> None:
    path = key_file(tmp_path, f"alice:{ALICE}").api_key_file
    known = ApiKeys.from_settings(ServeSettings(api_key_file=path, api_key=(f"bob:{BOB}",)))
    assert [known.identify(f"Bearer {key}") for key in (ALICE, BOB)] == ["alice", "bob"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        ALICE,
        f"Basic {ALICE}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        f"Bearer {ALICE.upper()}",
        f"Bearer alice:{ALICE}",
        "Bearer \xe9\xff",
        "Bearer \ud800",
        f"Bearer {'x' * 60_000}",
    ],
)
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(HttpError) as refused:
        keys(f"alice:{ALICE}").identify(header)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.headers["WWW-Authenticate"].startswith('Bearer realm="ringlight"')
    assert ALICE not in str(refused.value)


def test_only_a_wrong_key_is_called_an_invalid_token() -> None:
    challenges = []
    for header in (None, "Bearer wrong-key-0123456789"):
        with pytest.raises(HttpError) as refused:
            keys(ALICE).identify(header)
        challenges.append(refused.value.headers["WWW-Authenticate"])
    assert ["invalid_token" in challenge for challenge in challenges] == [False, True]


def test_without_keys_everybody_is_the_same_owner() -> None:
    assert keys().identify(None) == keys().identify("Bearer anything") == ""
    assert len(keys()) == 0


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return hmac.compare_digest(a, b)

    known = keys(f"alice:{ALICE}", f"bob:{BOB}", BARE)
    monkeypatch.setattr(module, "hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    for key in (ALICE, BOB, BARE):
        known.identify(f"Bearer {key}")
        assert len(set(compared)) == len(compared) == 3
        compared.clear()


def test_keys_themselves_are_not_kept() -> None:
    secret = "kept-nowhere-" + "0123456789"
    known = keys(f"carol:{secret}")
    assert known.identify(f"Bearer {secret}") == "carol"
    held = [item for item in gc.get_referents(known.__dict__) if isinstance(item, dict)]
    texts = [part for table in held for pair in table.items() for part in pair]
    assert texts == [hashlib.sha256(secret.encode()).digest(), "carol"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("alice:short-key", "line 1: a key needs at least 16 characters"),
        ("# one\nfifteen-letters", "line 2: a key needs at least 16 characters"),
        (f"alice:{ALICE}\nalice:{BARE}", "line 2: the name alice is taken by"),
        (f"alice:{ALICE}\nbob:{ALICE}", "line 2: the same key as"),
        (f"{BARE}\n{BARE}", "line 2: the same key as"),
        (f"a name:{ALICE}", "line 1: the name before the colon"),
        (f":{ALICE}", "line 1: the name before the colon"),
        (f"alice:{ALICE} and more", "line 1: a key is made of printable ASCII"),
        (f"alice:{ALICE}é", "line 1: a key is made of printable ASCII"),
        ("alice:", "line 1: a key is made of printable ASCII"),
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
    ],
)
def test_a_file_that_is_not_right_is_refused_without_showing_a_key(tmp_path: Path, content: str, expected: str) -> None:
    with pytest.raises(InvalidSetting, match=expected) as refused:
        ApiKeys.from_settings(key_file(tmp_path, content))
    assert str(tmp_path / "keys") in str(refused.value)
    assert not [key for key in (ALICE, BARE, "short-key", "fifteen-letters") if key in str(refused.value)]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        ApiKeys.from_settings(ServeSettings(api_key_file=str(tmp_path / "none")))
    (tmp_path / "keys").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(InvalidSetting, match="UTF-8"):
        ApiKeys.from_settings(ServeSettings(api_key_file=str(tmp_path / "keys")))


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        ApiKeys.from_settings(key_file(tmp_path, ALICE, mode))
    assert ("chmod 600" in caplog.text) is warns
    assert ALICE not in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LocalHost"])
def test_a_server_for_this_machine_needs_no_keys(host: str) -> None:
    assert is_loopback(ServeSettings(host=host).address)
    check_exposure(ServeSettings(host=host))


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "[::]", "[localhost]", "", "10.0.0.1", "example.org", "localhost.example.org", "128.0.0.1"],
)
def test_a_server_for_others_needs_keys_or_a_word(host: str) -> None:
    with pytest.raises(InvalidSetting, match=r"--api-key-file.*--no-auth"):
        check_exposure(ServeSettings(host=host))
    check_exposure(ServeSettings(host=host, no_auth=True))
    check_exposure(ServeSettings(host=host, api_key=(ALICE,)))
    check_exposure(ServeSettings(host=host, api_key_file="keys"))


def test_keys_and_no_auth_contradict_each_other() -> None:
    with pytest.raises(InvalidSetting, match="--no-auth contradicts"):
        check_exposure(ServeSettings(no_auth=True, api_key=(ALICE,)))
