"""The Kubernetes templates, rendered as Prefect renders them: no cluster is there for these tests."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

pytestmark = pytest.mark.nightly

FOLDER = Path(__file__).parents[2] / "deployments" / "kubernetes"
POOLS = ("cpu-pool", "gpu-pool")
SUFFIXES = {"": 1, "m": Decimal("0.001"), "Mi": 2**20, "Gi": 2**30}
SECRET = re.compile(r"PASSWORD|SECRET_ACCESS|ACCESS_KEY|AUTH_STRING$|USERNAME")


def template(pool: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{pool}.json").read_text())
    return loaded


def rendered(pool: str, **chosen: Any) -> dict[str, Any]:
    """The job configuration that a worker makes of a template, the variables' defaults and a deployment's choice."""
    from prefect.utilities.templating import apply_values

    loaded = template(pool)
    properties = loaded["variables"]["properties"]
    values = {name: each["default"] for name, each in properties.items() if "default" in each} | chosen
    made: dict[str, Any] = apply_values(loaded["job_configuration"], values)
    return made


def pod(pool: str, **chosen: Any) -> dict[str, Any]:
    spec: dict[str, Any] = rendered(pool, **chosen)["job_manifest"]["spec"]["template"]["spec"]
    return spec


def quantity(text: str) -> Decimal:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|Mi|Gi|)", text)
    assert found, f"{text!r} is no quantity of Kubernetes"
    return Decimal(found[1]) * SUFFIXES[found[2]]


@pytest.mark.parametrize("pool", POOLS)
def test_every_placeholder_is_a_variable_and_every_variable_is_used(pool: str) -> None:
    loaded = template(pool)
    assert set(loaded) == {"variables", "job_configuration"}
    placeholders = set(re.findall(r"\{\{ ?([a-z_]+) ?\}\}", json.dumps(loaded["job_configuration"])))
    assert placeholders == set(loaded["variables"]["properties"])


@pytest.mark.parametrize("pool", POOLS)
def test_the_defaults_fit_the_template_s_own_schema(pool: str) -> None:
    variables = template(pool)["variables"]
    jsonschema.Draft202012Validator.check_schema(variables)
    strict = variables | {"additionalProperties": False}
    jsonschema.validate({name: p["default"] for name, p in variables["properties"].items() if "default" in p}, strict)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"memory_limit": 8}, strict)


@pytest.mark.parametrize("pool", POOLS)
def test_requests_are_quantities_below_their_limits(pool: str) -> None:
    resources = pod(pool)["containers"][0]["resources"]
    assert quantity(resources["requests"]["cpu"]) >= Decimal("0.1")
    assert 2**30 <= quantity(resources["requests"]["memory"]) <= quantity(resources["limits"]["memory"])


def test_only_the_gpu_pool_asks_for_a_gpu_and_a_deployment_may_ask_for_more() -> None:
    assert pod("gpu-pool")["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in pod("cpu-pool")["containers"][0]["resources"]["limits"]
    more = pod("gpu-pool", gpu_limit=2, memory_request="48Gi")["containers"][0]["resources"]
    assert (more["limits"]["nvidia.com/gpu"], more["requests"]["memory"]) == (2, "48Gi")


def pods() -> list[tuple[str, dict[str, Any]]]:
    documents = yaml.safe_load_all((FOLDER / "workers.yaml").read_text())
    workers = [(each["metadata"]["name"], each["spec"]["template"]["spec"]) for each in documents if "spec" in each]
    return [*workers, *((pool, pod(pool)) for pool in POOLS)]


@pytest.mark.parametrize("name", [*POOLS, *(f"{pool}-worker" for pool in POOLS)])
def test_every_pod_meets_the_restricted_standard(name: str) -> None:
    spec = dict(pods())[name]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted == {each["name"] for each in spec["volumes"]}
    assert all("hostPath" not in each for each in spec["volumes"])
    if name in POOLS:
        assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", [*POOLS, *(f"{pool}-worker" for pool in POOLS)])
def test_secrets_come_by_reference(name: str) -> None:
    spec = dict(pods())[name]
    secrets = [each for each in spec["containers"][0]["env"] if SECRET.search(each["name"])]
    assert secrets
    for each in secrets:
        assert "value" not in each
        assert each["valueFrom"]["secretKeyRef"]["name"] == "tickerforge"


def test_a_worker_does_not_write_prefect_s_password_into_its_jobs() -> None:
    for name, spec in pods():
        if name.endswith("-worker"):
            variables = {each["name"]: each for each in spec["containers"][0]["env"]}
            reference = variables["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]
            prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
            assert variables[f"{prefix}_NAME"]["value"] == reference["name"]
            assert variables[f"{prefix}_KEY"]["value"] == reference["key"]


def test_jobs_share_a_store_and_send_heartbeats() -> None:
    for pool in POOLS:
        variables = {each["name"]: each.get("value") for each in pod(pool, store="s3://b/p")["containers"][0]["env"]}
        assert variables["TICKERFORGE_STORE"] == "s3://b/p"
        assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_the_two_pools_differ_in_defaults_and_shared_memory_only() -> None:
    of_cpu, of_gpu = (template(pool) for pool in POOLS)
    for loaded in (of_cpu, of_gpu):
        for each in loaded["variables"]["properties"].values():
            each.pop("default", None)
    spec = of_gpu["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    spec["volumes"] = [each for each in spec["volumes"] if each["name"] != "shm"]
    mounts = spec["containers"][0]["volumeMounts"]
    spec["containers"][0]["volumeMounts"] = [each for each in mounts if each["name"] != "shm"]
    assert of_cpu == of_gpu


def test_the_workers_serve_the_pools_that_the_flows_use() -> None:
    from tickerforge.flows.remote.gpu_pool import CPU_POOL, GPU_POOL

    words = {name: spec["containers"][0]["command"] for name, spec in pods() if name.endswith("-worker")}
    assert {each[each.index("--pool") + 1] for each in words.values()} == {CPU_POOL, GPU_POOL} == set(POOLS)


def test_prefect_accepts_the_templates(prefect_server: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        for pool in POOLS:
            made = client.create_work_pool(
                WorkPoolCreate(name=f"kubernetes-{pool}", type="kubernetes", base_job_template=template(pool))
            )
            assert made.base_job_template == template(pool)
