"""Where a checkpoint is found that was named, in the hub's cache too, and what it is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ringlight.core.checkpoint import Checkpoint, find_checkpoint
from ringlight.core.config import read_hub_cache
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.hub import model_name
from ringlight.core.stored_network import require_whole
from ringlight.families.table import read_model
from tests.core.checkpoints import cached, copy_json, edit, link_all, name_revision

REPOSITORY = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
COMMIT = "b8fff7315c768468a5333511427288870b2e9635"
OTHER = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which is empty, and a folder to work in."""
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """JSON and tokenizer; the name in it is nobody's."""
    folder = copy_json(tiny, tmp_path / "source")
    edit(folder, "model_index.json", _name_or_path=...)
    return folder


@pytest.fixture
def snapshot(source: Path, cache: Path) -> Path:
    """The main revision of a repository."""
    found = cached(source, cache, REPOSITORY, COMMIT)
    name_revision(found, "main")
    return found


def refusal(asked: object) -> str:
    with pytest.raises(InvalidCheckpoint) as caught:
        read_model(find_checkpoint(str(asked)))
    message = str(caught.value)
    assert message.startswith(str(asked)) and "\n" not in message
    return message


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}", "@b8fff73", "@v1.0", "@refs/pr/3"])
def test_a_repository_is_found_by_each_of_its_revisions(
    source: Path, snapshot: Path, cache: Path, revision: str
) -> None:
    cached(source, cache, REPOSITORY, OTHER)
    name_revision(snapshot, "v1.0")
    name_revision(snapshot, "refs/pr/3")
    assert find_checkpoint(REPOSITORY + revision) == snapshot
    assert find_checkpoint(f"{REPOSITORY}@{OTHER[:7]}").name == OTHER


def test_folders_of_a_cache_stand_for_their_main_revision(source: Path, snapshot: Path, cache: Path) -> None:
    other = cached(source, cache, REPOSITORY, OTHER)
    for folder in (snapshot.parent.parent, snapshot.parent, snapshot):
        assert find_checkpoint(str(folder)) == snapshot
    name_revision(other, "main")
    assert find_checkpoint(str(snapshot.parent)) == other
    shutil.rmtree(snapshot.parent.parent / "refs")
    assert "name one snapshot" in refusal(snapshot.parent.parent)
    shutil.rmtree(other)
    assert find_checkpoint(str(snapshot.parent.parent)) == snapshot


def test_what_lies_here_under_that_name_comes_first(source: Path, snapshot: Path) -> None:
    here = Path(REPOSITORY)
    shutil.copytree(source, here)
    assert find_checkpoint(REPOSITORY) == here
    assert read_model(here).name == "Wan2.2-TI2V-5B-Diffusers"


@pytest.mark.parametrize("place", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_where_the_hubs_client_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Held to the client's own constants in a process that has nothing but this variable."""
    below = {"HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub", "HOME": ".cache/huggingface/hub"}
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(place, "~/$USER_OF_TEST" if place != "HOME" else str(tmp_path))
    monkeypatch.setenv("USER_OF_TEST", "ann")
    root = tmp_path if place == "HOME" else tmp_path / "ann"
    assert read_hub_cache() == root / below.get(place, "")


def test_the_cache_is_the_hubs_clients_own() -> None:
    import huggingface_hub.constants as client  # read when it is imported, from the environment of this process

    assert Path(client.HF_HUB_CACHE).name == "hub"
    assert client.DEFAULT_REVISION == "main"


def test_what_is_not_in_the_cache_is_told_with_the_command_that_gets_it(snapshot: Path, cache: Path) -> None:
    said = refusal("Wan-AI/Wan2.1")
    assert f"not in the hub's cache ({cache})" in said and "`hf download Wan-AI/Wan2.1`" in said
    said = refusal(f"{REPOSITORY}@v2")
    assert "only the revisions main (b8fff7315c76)" in said and f"`hf download {REPOSITORY} --revision v2`" in said
    (snapshot.parent.parent / "refs" / "main").write_text(OTHER)
    assert "only the revisions b8fff7315c76" in refusal(REPOSITORY)
    shutil.rmtree(snapshot.parent)
    assert "no revision of it" in refusal(REPOSITORY)


def test_a_mistyped_path_is_not_only_sent_to_the_hub(source: Path) -> None:
    shutil.copytree(source, "models/Wan2.2-TI2V")
    said = refusal("models/Wan2.2-TIV")
    assert "no such folder" in said and said.endswith("did you mean models/Wan2.2-TI2V?")
    assert "did you mean" in refusal(Path("models/Wan22-TI2V").absolute())
    assert "hf download" not in refusal("../models/nothing")
    assert "--model-path" in refusal("nothing")


def test_a_download_that_is_not_whole_names_all_that_is_missing(tiny: Path, cache: Path) -> None:
    snapshot = cached(tiny, cache, REPOSITORY, COMMIT)
    command = f"`hf download {REPOSITORY} --revision {COMMIT} --cache-dir {cache}`"
    (snapshot / "text_encoder" / "model.safetensors").resolve().unlink()
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (snapshot / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(InvalidCheckpoint) as caught:
        require_whole(Checkpoint(place=snapshot), with_weights=True)
    said = str(caught.value)
    assert "text_encoder/model.safetensors is a link to" in said
    assert "vae/diffusion_pytorch_model.safetensors: no such file" in said
    assert "tokenizer/tokenizer.json: no such file" in said
    assert said.endswith(f"{command} gets what is missing")
    (snapshot / "vae" / "config.json").unlink()
    (snapshot / "scheduler" / "scheduler_config.json").unlink()
    said = refusal(snapshot)
    assert "vae/config.json" in said and "scheduler/scheduler_config.json" in said and command in said


def test_a_cached_model_is_called_as_its_repository(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        assert read_model(folder).name == REPOSITORY
    edit(snapshot, "model_index.json", _name_or_path="somebody/else")
    assert read_model(snapshot).name == REPOSITORY


@pytest.mark.parametrize(
    "said", ["/home/bob/ckpts/wan/", "./wan", "../wan", "~/wan", "a/b/c", "C:\\wan", "", COMMIT, 7, None, ".", ".."]
)
def test_a_name_is_never_a_path_or_a_commit(said: object) -> None:
    assert model_name(Path("/models/wan"), said) == "wan"
    assert model_name(Path(f"/models/wan/snapshots/{COMMIT}"), said) == "wan"
    assert model_name(Path(f"/{COMMIT}"), said) == "wan2.2-ti2v"


@pytest.mark.parametrize("said", [REPOSITORY, "ringlight-demo-tiny", "wan"])
def test_a_name_that_is_one_is_kept(said: str) -> None:
    assert model_name(Path("/models/mine"), said) == said


def test_links_are_followed_to_the_name_of_what_they_lead_to(tiny: Path, tmp_path: Path) -> None:
    folder = link_all(tiny, tmp_path / "farm")
    assert read_model(folder) == read_model(tiny)
