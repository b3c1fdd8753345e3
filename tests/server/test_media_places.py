"""Where videos may lie: URLs of object stores, addresses that are signed offline, and what a store's failures mean."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ringlight.core.errors import InvalidSetting, MediaError, Occupied
from ringlight.server.collection.media import MediaStore, check_media
from ringlight.server.collection.refusals import StoreRefusal
from tests.server.objects import in_child

VIDEO = f"video_{'2' * 32}"


@pytest.mark.parametrize(
    "url",
    [
        "films",
        "/films",
        "file:///films",
        "https://bucket.s3.amazonaws.com/films",
        "s3://",
        "s3:///films",
        "s3://key:secret@bucket/films",
        "s3://bucket/films?region=eu-central-1",
        "s3://bucket/films#part",
        "s3://bucket/../films",
        "s3://bucket//films",
        "s3://bucket/films and more",
        "memory:///",
    ],
)
def test_what_is_no_place_is_refused_with_those_that_are(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"must be one such as s3://bucket/prefix.* belong in the environment"):
        MediaStore.open(url)


def test_without_obstore_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(InvalidSetting, match=r"needs obstore .*: pip install 'ringlight\[object-store\]'"):
        MediaStore.open("s3://bucket/films")


def address(url: str, method: str = "GET") -> httpx.URL:
    """Where the video of a store is had for a minute."""
    store = MediaStore.open(url)
    return httpx.URL(asyncio.run(store.address(VIDEO, "video.mp4", method, 60)))  # type: ignore[arg-type]


def sign_s3() -> None:
    found = address("s3://bucket/a/films/")
    assert (found.host, found.path) == ("s3.eu-central-1.amazonaws.com", f"/bucket/a/films/videos/{VIDEO}/video.mp4")
    assert found.params["X-Amz-Expires"] == "60"
    assert found.params["X-Amz-Credential"].startswith("test/") and "secret" not in str(found)


def sign_google() -> None:
    found = address("gs://bucket/films")
    assert (found.host, found.path) == ("storage.googleapis.com", f"/bucket/films/videos/{VIDEO}/video.mp4")
    assert found.params["X-Goog-Expires"] == "60" and found.params["X-Goog-Signature"]


def sign_azure() -> None:
    found = address("az://container/films")
    assert (found.host, found.path) == (
        "account.blob.core.windows.net",
        f"/container/films/videos/{VIDEO}/video.mp4",
    )
    assert (found.params["sp"], found.params["sr"]) == ("r", "b") and found.params["sig"]  # to read one blob


@pytest.mark.parametrize("work", [sign_s3, sign_google, sign_azure])
def test_addresses_are_signed_without_asking_anybody(work: Callable[[], None], tmp_path: Path) -> None:
    in_child(
        work,
        AWS_REGION="eu-central-1",
        GOOGLE_SERVICE_ACCOUNT=str(google_account(tmp_path)),
        AZURE_STORAGE_ACCOUNT_NAME="account",
        AZURE_STORAGE_ACCOUNT_KEY=base64.b64encode(b"key").decode(),
    )


def google_account(folder: Path) -> Path:
    """A file of credentials as Google gives them out, of an account that is not there."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "ringlight@project.iam.gserviceaccount.com",
        "client_id": "1",
        "private_key": key.decode(),
        "private_key_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    return path


def miss_credentials() -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[name]
    with pytest.raises(InvalidSetting, match=r"no credentials for the object store were found.* AWS_ACCESS_KEY_ID"):
        check_media("s3://bucket/films")
    with pytest.raises(MediaError, match="no credentials"):
        address("s3://bucket/films")


def miss_half_of_them() -> None:
    del os.environ["AWS_ACCESS_KEY_ID"]
    with pytest.raises(InvalidSetting, match="Missing AccessKeyId; set it in the environment"):
        check_media("s3://bucket/films")


def miss_the_account() -> None:
    with pytest.raises(InvalidSetting, match="Account must be specified; set it in the environment"):
        MediaStore.open("az://container/films")


def be_away() -> None:
    with pytest.raises(Occupied, match=r"the object store cannot be reached.*; a server would wait for it"):
        check_media("s3://bucket/films")


@pytest.mark.parametrize("work", [miss_credentials, miss_half_of_them, miss_the_account, be_away])
def test_what_is_missing_is_named(work: Callable[[], None]) -> None:
    nowhere = "http://127.0.0.1:1"
    in_child(work, AWS_METADATA_ENDPOINT=nowhere, AWS_ENDPOINT_URL=nowhere)


ANSWERS = [
    (403, "<Code>AccessDenied</Code>", "refuses the server's credentials", "list the bucket"),
    (403, "<Code>SignatureDoesNotMatch</Code>", "refuses the server's credentials", "list the bucket"),
    (404, "<Code>NoSuchBucket</Code>", "there is no such bucket", "make it"),
    (404, "<Code>ContainerNotFound</Code>", "there is no such bucket", "make it"),
    (301, "<Code>PermanentRedirect</Code>", "the bucket is elsewhere", "AWS_REGION"),
    (400, "<Code>InvalidBucketName</Code>", "refuses what it is asked", "endpoint"),
]


@pytest.mark.parametrize(("status", "body", "told", "remedy"), ANSWERS)
def test_what_will_never_work_is_told_from_what_passes(status: int, body: str, told: str, remedy: str) -> None:
    refusal = StoreRefusal.of(failure(status, body))
    assert refusal.is_lasting and told in refusal.told and remedy in refusal.remedy
    assert body in refusal.detail and "Debug" not in refusal.detail


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_waited_for(status: int) -> None:
    refusal = StoreRefusal.of(failure(status, "<Code>SlowDown</Code>"))
    assert not refusal.is_lasting and refusal.told == f"the object store answers with {status}"
    lost = StoreRefusal.of(
        Exception("Generic S3 error: Error performing PUT http://s3:9000/b/k - HTTP error: timed out")
    )
    assert not lost.is_lasting and lost.told == "the object store cannot be reached"


def failure(status: int, body: str) -> Exception:
    """As obstore has it."""
    said = (
        f"Generic S3 error: Error performing PUT http://s3/b/k in 1ms - Server returned non-2xx status code: {status}"
    )
    return Exception(f"{said}: {body}\n\nDebug source:\nGeneric {{}}")
