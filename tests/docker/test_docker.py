"""The container files, compared with the project that they run; no test starts an engine."""

import importlib.metadata
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
PACKAGES = ("features", "training", "evaluation", "tasks", "flows", "deployments")
ONE_SHOT = {"deploy"}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY")
REQUIRED = re.compile(r"\$\{([A-Z0-9_]+):\?[^}]+\}")
TAG = re.compile(r":v?\d+(\.\d+)+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?$")


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def dockerfile(service: dict[str, Any]) -> Path | None:
    return ROOT / service["build"]["dockerfile"] if "build" in service else None


def of_image(service: dict[str, Any], word: str) -> str | None:
    path = dockerfile(service)
    return next((rest for name, rest in last_stage(path) if name == word), None) if path else None


def command(service: dict[str, Any]) -> list[str]:
    return service.get("command") or yaml.safe_load(of_image(service, "CMD") or "[]")


def environments() -> list[tuple[str, str, str]]:
    found = [(name, key, value) for name, each in SERVICES.items() for key, value in each["environment"].items()]
    for path in DOCKERFILES:
        for word, rest in instructions(path):
            if word == "ENV":
                found += [(path.name, *pair.split("=", 1)) for pair in shlex.split(rest)]  # type: ignore[misc]
    return found


def known_to_prefect() -> set[str]:
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings

    return set(_get_settings_fields(Settings))


def test_every_image_is_pinned_to_a_version() -> None:
    images = {name: each["image"] for name, each in SERVICES.items()}
    for path in DOCKERFILES:
        stages = {rest.split(" AS ")[1] for word, rest in instructions(path) if word == "FROM" and " AS " in rest}
        bases = [rest.split(" AS ")[0] for word, rest in instructions(path) if word == "FROM"]
        images |= {f"{path.name} {base}": base for base in bases if base not in stages}
    assert [image for image in images.values() if not TAG.search(image)] == []


def test_images_that_are_built_bear_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    built = {each["image"].split(":")[1] for each in SERVICES.values() if "build" in each}
    assert built == {version}


@pytest.mark.parametrize("name", SERVICES)
def test_every_lasting_service_has_a_health_check_and_a_one_shot_has_none(name: str) -> None:
    service = SERVICES[name]
    check = service.get("healthcheck")
    if name in ONE_SHOT:
        assert check == {"disable": True}
        assert service["restart"] == "no"
    else:
        assert check["test"] if check else of_image(service, "HEALTHCHECK")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_runs_without_rights_on_a_file_system_that_it_cannot_write(name: str) -> None:
    service = SERVICES[name]
    user = service.get("user") or of_image(service, "USER")
    assert user
    assert user.split(":")[0] not in {"root", "0"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & set(service)


def test_ports_are_published_on_the_loopback_interface_unless_asked_otherwise() -> None:
    published = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("${BIND_ADDRESS:-127.0.0.1}:")] == []


def test_databases_and_objects_are_on_networks_without_a_way_out() -> None:
    for name in ("postgres", "objects"):
        assert all(COMPOSE["networks"][network].get("internal") for network in SERVICES[name]["networks"])
        assert "ports" not in SERVICES[name]
    assert not any("databases" in SERVICES[name]["networks"] for name in SERVICES if "worker" in name)


def test_no_secret_stands_in_a_file_and_none_may_be_empty() -> None:
    secrets = [(where, key, value) for where, key, value in environments() if SECRET.search(key)]
    assert len(secrets) > 10
    assert [each for each in secrets if not REQUIRED.search(each[2])] == []
    example = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE))
    required = set(REQUIRED.findall((DOCKER / "compose.yaml").read_text()))
    assert {name: example.get(name) for name in required} == dict.fromkeys(required, "")


def test_every_variable_of_the_example_is_used() -> None:
    example = re.findall(r"^#? ?([A-Z0-9_]+)=", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE)
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", (DOCKER / "compose.yaml").read_text())) | {"COMPOSE_PROFILES"}
    assert set(example) == used


def test_every_setting_is_one_that_its_program_knows() -> None:
    import mlflow.environment_variables as of_mlflow

    known = known_to_prefect()
    assert {"PREFECT_API_URL", "PREFECT_SERVER_DATABASE_HOST"} <= known
    known |= {name for name in dir(of_mlflow) if name.startswith("MLFLOW_")}
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    known |= {name for path in sources for name in re.findall(r"TICKERFORGE_[A-Z_]+", path.read_text())}
    spec = importlib.util.find_spec("mlflow.cli")
    assert spec
    assert spec.origin
    known |= set(re.findall(r"envvar=\"(MLFLOW_[A-Z_]+)\"", Path(spec.origin).read_text()))
    ours = {key for _, key, _ in environments() if key.startswith(("PREFECT_", "MLFLOW_", "TICKERFORGE_"))}
    assert len(ours) > 20
    assert sorted(ours - known) == []


def test_every_command_is_a_program_that_the_image_installs() -> None:
    scripts = {each.name for each in importlib.metadata.entry_points(group="console_scripts")}
    scripts |= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    for name, service in SERVICES.items():
        program = command(service)[0]
        path = dockerfile(service)
        if path and path.name in {"Dockerfile.cpu", "Dockerfile.gpu"}:
            assert program in scripts, name
            packages = {rest.split()[0] for word, rest in instructions(path) if word == "COPY"}
            assert set(PACKAGES) <= packages


def test_workers_serve_the_pools_that_deploying_makes() -> None:
    from tickerforge.flows.remote.gpu_pool import CPU_POOL, GPU_POOL

    served = {name: command(each) for name, each in SERVICES.items() if name.endswith("worker")}
    pools = {name: words[words.index("--pool") + 1] for name, words in served.items()}
    assert pools == {"cpu-worker": CPU_POOL, "gpu-worker": GPU_POOL, "heavy-worker": GPU_POOL}
    for words in served.values():
        assert "--with-healthcheck" in words
    assert all(served[name][served[name].index("--limit") + 1] == "1" for name in ("gpu-worker", "heavy-worker"))


def test_options_of_the_servers_exist() -> None:
    from click.testing import CliRunner
    from mlflow.cli import cli
    from typer.testing import CliRunner as TyperRunner

    from tickerforge.deployments.cli import app

    offered = CliRunner().invoke(cli, ["server", "--help"]).output
    for word in [word for word in SERVICES["mlflow"]["command"] if word.startswith("--")]:
        assert word in offered
    offered = TyperRunner().invoke(app, ["deploy", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    prices = yaml.safe_load((DOCKER / "compose.prices.yaml").read_text())["services"]["deploy"]
    for word in [word for word in prices["command"] if word.startswith("--")]:
        assert word in offered


def test_images_install_with_the_very_steps_of_make_setup() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text()
    assert "-e '.[$(EXTRAS)]'" in makefile
    for name in ("Dockerfile.cpu", "Dockerfile.gpu"):
        steps = instructions(DOCKER / name)
        runs = " ".join(rest for word, rest in steps if word == "RUN")
        assert 'make setup EXTRAS="$EXTRAS"' in runs
        assert not re.search(r"pip3? install|requirements\.txt", runs)
        chosen = next(rest.split("=")[1] for word, rest in steps if word == "ARG" and rest.startswith("EXTRAS"))
        assert set(chosen.split(",")) <= set(extras)


def test_no_compiler_stays_in_the_cpu_image() -> None:
    assert not any("apt-get" in rest for word, rest in last_stage(DOCKER / "Dockerfile.cpu") if word == "RUN")


def test_what_the_images_copy_is_not_kept_out_of_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for path in DOCKERFILES
        for word, rest in instructions(path)
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert [name for name in allowed if not (ROOT / name).exists()] == []


def test_limits_keep_their_leases_on_a_volume_and_runs_send_heartbeats() -> None:
    server = SERVICES["prefect-server"]
    module = server["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    assert importlib.util.find_spec(module)
    assert f"prefect:{server['environment']['PREFECT_HOME']}" in server["volumes"]
    for name in SERVICES:
        if name.endswith("worker"):
            assert int(SERVICES[name]["environment"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) <= 30
