"""The files under deploy/: they parse, what they name exists, and their times fit together."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from ringlight.cli.main import app
from ringlight.core.settings import ServeSettings
from tests.cli.commands import here

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MARGIN_SECONDS = 30  # for state to be written and ranks to end, after the drain


def options() -> dict[str, list[str]]:
    """Flags of `ringlight serve` by the names of their parameters."""
    serve = typer.main.get_group(app).commands["serve"]
    return {option.name: [*option.opts, *option.secondary_opts] for option in serve.params}


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    return yaml.safe_load(text(name))


def instructions() -> dict[str, list[str]]:
    """The Dockerfile's instructions by name, continued lines joined."""
    found: dict[str, list[str]] = {}
    lines = [line for line in text("Dockerfile").splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line:
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # names have capitals
    parser.read_string(text("ringlight.service"))
    return parser["Service"]


def commands() -> dict[str, list[str]]:
    """The command lines of `ringlight` in these files, without its name."""
    shown = re.findall(r" ringlight (serve .*)$", text("Dockerfile"), flags=re.MULTILINE)
    return {
        "Dockerfile": json.loads(instructions()["CMD"][0]),
        "Dockerfile's comment": shlex.split(shown[0]),
        "compose.yaml": read_yaml("compose.yaml")["services"]["ringlight"]["command"],
        "ringlight.service": shlex.split(unit()["ExecStart"])[1:],
    }


def variables() -> Iterator[str]:
    """Names of RINGLIGHT_ variables that these files set, or speak of."""
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            yield from re.findall(r"RINGLIGHT_([A-Z_]+[A-Z])", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("place", commands())
def test_commands_have_flags_that_exist(place: str) -> None:
    command, *arguments = commands()[place]
    assert command == "serve"
    known = {flag for flags in options().values() for flag in flags}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_the_image_has_what_computes_and_extras_that_there_are() -> None:
    (extras,) = (found[1].split(",") for run in instructions()["RUN"] if (found := re.search(r'"\.\[(.*)\]"', run)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"worker", "ray"} <= set(extras) <= project["optional-dependencies"].keys()


def test_variables_are_settings() -> None:
    found = {name.lower() for name in variables()}
    assert len(found) >= 6
    assert found <= set(options())


def test_the_sample_is_in_force(tiny: Path, tmp_path: Path) -> None:
    sample = DEPLOY / "ringlight.yaml"
    done = here("serve", "--config", sample, "--model-path", tiny, "--data-dir", tmp_path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    in_force = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.startswith("  ")}
    settings = yaml.safe_load(sample.read_text())
    limits = settings.pop("limits")
    named = {key for key in settings if key not in ("model-path", "data-dir")} | {
        key.replace("-", "_") for key in limits
    }
    assert {key for key, said in in_force.items() if said[-1] == str(sample)} == named


def test_what_the_sample_shows_as_a_comment_is_a_setting(tiny: Path, tmp_path: Path) -> None:
    """Everything in it, without the marks of comments."""
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text("me:" + "k" * 20)
    (tmp_path / "secret").write_text("whsec_" + "A" * 43 + "=")
    lines = [re.sub(r"^# ((?:[a-z-]+:|  )(?: .*)?)$", r"\1", line) for line in text("ringlight.yaml").splitlines()]
    content = "\n".join(lines).replace("/etc/ringlight/api-keys", str(tmp_path / "key"))
    content = content.replace("/etc/ringlight/webhook-secret", str(tmp_path / "secret"))
    content = content.replace("/models/loras", str(tmp_path))
    assert {"api-key-file", "image-host", "defaults", "num-gpus", "store-url"} <= set(yaml.safe_load(content))
    (tmp_path / "all.yaml").write_text(content)
    flags = ["--config", tmp_path / "all.yaml", "--model-path", tiny, "--data-dir", tmp_path, "--dry-run"]
    done = here("serve", *flags)
    assert (done.code, done.err) == (0, "")


def test_nobody_is_killed_while_it_drains() -> None:
    drain_seconds = max(ServeSettings().drain_timeout, read_yaml("ringlight.yaml")["drain-timeout"])
    assert int(unit()["TimeoutStopSec"]) >= drain_seconds + MARGIN_SECONDS
    grace = read_yaml("compose.yaml")["services"]["ringlight"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= drain_seconds + MARGIN_SECONDS
    assert (unit()["KillSignal"], unit()["KillMode"]) == ("SIGTERM", "mixed")
    assert instructions()["STOPSIGNAL"] == ["SIGTERM"]


def test_a_node_comes_back_however_it_ended_but_where_it_was_refused() -> None:
    """It ends well with node 0, and with 130 where it is told to stop."""
    ends = {name: unit()[name] for name in ("Restart", "SuccessExitStatus", "RestartPreventExitStatus")}
    assert ends == {"Restart": "always", "SuccessExitStatus": "130", "RestartPreventExitStatus": "2 3"}


def test_what_is_mounted_and_copied_is_there() -> None:
    compose = read_yaml("compose.yaml")
    mounted = [volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]]
    files = [name for name in mounted if name.startswith("./")]
    assert len(files) == 6
    assert all((DEPLOY / name).is_file() for name in files)
    named = {name for name in mounted if not name.startswith(("./", "$"))}
    assert named == set(compose["volumes"])
    copied = [word for line in instructions()["COPY"] if "--from" not in line for word in line.split()[:-1]]
    kept = [line[1:] for line in text("Dockerfile.dockerignore").splitlines() if line.startswith("!")]
    assert set(copied) == set(kept)
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_as_nobody_and_is_watched() -> None:
    found = instructions()
    assert found["USER"] == ["ringlight"]
    assert "/livez" in found["HEALTHCHECK"][0]
    port = str(ServeSettings().port)
    assert found["EXPOSE"] == [port] and f":{port}/livez" in found["HEALTHCHECK"][0]
    service = read_yaml("compose.yaml")["services"]["ringlight"]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "RINGLIGHT_API_KEY_FILE" in service["environment"]  # it listens on all addresses of its container


def test_prometheus_finds_the_server_its_rules_and_grafana_finds_it() -> None:
    prometheus = read_yaml("prometheus.yml")
    (scrape,) = prometheus["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"ringlight:{ServeSettings().port}"]}]
    place = scrape["authorization"]["credentials_file"]
    service = read_yaml("compose.yaml")["services"]["prometheus"]
    assert [f"/run/secrets/{name}" for name in service["secrets"]] == [place]
    rules = {rule["expr"] for group in read_yaml("prometheus-alerts.yml")["groups"] for rule in group["rules"]}
    assert f'up{{job="{scrape["job_name"]}"}} == 0' in rules
    assert all(f"./{name}:/etc/prometheus/{name}:ro" in service["volumes"] for name in prometheus["rule_files"])
    (source,) = read_yaml("grafana/datasources.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = read_yaml("grafana/dashboards.yaml")["providers"]
    mounted = read_yaml("compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana/ringlight.json:{provider['options']['path']}/ringlight.json:ro" in mounted
    assert json.loads(text("grafana/ringlight.json"))["uid"]


def test_the_image_has_what_its_places_need() -> None:
    """PostgreSQL in compose.yaml, Ray on a cluster, whose shells find it."""
    (asked,) = re.findall(r'"\.\[(.+)\]"', "".join(instructions()["RUN"]))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"postgres", "ray", "object-store"} <= set(asked.split(",")) <= set(extras)
    assert any("/opt/ringlight/bin/ray" in line and "/usr/local/bin/" in line for line in instructions()["RUN"])


def test_images_have_tags_and_no_hosts() -> None:
    services = read_yaml("compose.yaml")["services"].values()
    images = [service["image"] for service in services if "image" in service]
    images += [line.split()[0] for line in instructions()["FROM"]]
    assert len(images) == 5
    for image in images:
        name, colon, tag = image.rpartition(":")
        assert colon and tag != "latest"
        assert "." not in name.split("/")[0]
