"""The form of a deployment in the UI: what it offers, takes and refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickerforge.deployments.prefect.deploy import deploy, resolve_entry
from tickerforge.deployments.prefect.entries import PREFECT_FILE, read_entries
from tickerforge.flows.settings.config import PipelineConfig, build_config, load_recipe

MANUAL = "train-ticker/1-train-one-stock"


@pytest.fixture(scope="module")
def client(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a server on which everything is deployed for two stocks."""
    from prefect.client.orchestration import get_client

    data = tmp_path_factory.mktemp("prices")
    for stock in ("AAPL", "BRK.B"):
        (data / f"{stock}.csv").touch()
    deploy(data=data)
    with get_client(sync_client=True) as client:
        yield client


def test_the_form_has_a_field_per_setting_of_a_person_with_a_label_and_every_choice(client: Any) -> None:
    schema = client.read_deployment_by_name(MANUAL).parameter_openapi_schema
    assert schema["additionalProperties"] is False
    form = schema["properties"]
    shown = sorted(form, key=lambda name: form[name]["position"])
    assert shown == ["stock", "recipe", "model", "data", "warm_start", "overrides"]
    assert form["stock"]["enum"] == ["AAPL", "BRK.B", "ALL"]
    assert form["recipe"]["enum"] == ["default", "demo", "gpu", "smollm2", "stocknet"]
    assert form["warm_start"]["enum"] == ["none", "champion", "pooled"]
    for name in ("train-ticker/1-train-one-stock", "nightly/2-retrain-all-stocks", "forecast/3-forecast-all-stocks"):
        deployed = client.read_deployment_by_name(name)
        assert "start-here" in deployed.tags
        assert "docs/" in deployed.description
        labels = [field["title"] for field in deployed.parameter_openapi_schema["properties"].values()]
        assert 4 < len(labels) < 8
        assert all(label[0].isupper() for label in labels)


def test_a_heavy_stage_is_taken_for_a_stock_that_is_newer_than_the_deployment(client: Any) -> None:
    internal = client.read_deployment_by_name("heavy-stage/internal")
    assert "internal" in internal.tags
    assert "enum" not in internal.parameter_openapi_schema["definitions"]["PipelineConfig"]["properties"]["stock"]


def submit(client: Any, **parameters: Any) -> tuple[int, str]:
    """Start a run as the form does, and put it away where it was accepted."""
    from prefect.exceptions import PrefectHTTPStatusError

    manual = client.read_deployment_by_name(MANUAL)
    body = {"parameters": {**manual.parameters, **parameters}}
    try:
        answer = client._client.post(f"/deployments/{manual.id}/create_flow_run", json=body)
    except PrefectHTTPStatusError as error:
        return error.response.status_code, error.response.text
    client.delete_flow_run(answer.json()["id"])
    return answer.status_code, answer.text


def test_the_form_takes_good_values_and_what_callers_of_the_api_give(client: Any) -> None:
    assert submit(client, stock="BRK.B", recipe="gpu", overrides="seed = 3\nlora-rank = 8")[0] == 201
    assert submit(client, heavy_stages="here", exchange="XNYS")[0] == 201
    config = PipelineConfig(stock="AAPL").model_dump(mode="json")
    assert submit(client, config=config)[0] == 201
    assert submit(client, config=config | {"seed": -1})[0] == 409


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stock", "MSFT"),
        ("stock", "../AAPL"),
        ("recipe", "fast"),
        ("warm_start", "champ"),
        ("overrides", 3),
        ("heavy_stages", "moon"),
        ("exchange", "nyse"),
        ("heavy_stage", "here"),
    ],
)
def test_the_form_refuses_a_bad_value_and_names_its_field(client: Any, name: str, value: object) -> None:
    status, text = submit(client, **{name: value})
    assert status == 409
    assert name in text


def test_the_recipe_of_deploy_is_in_the_fields(client: Any, tmp_path: Path) -> None:
    entry = next(entry for entry in read_entries() if entry.name == "1-train-one-stock")
    _, own = resolve_entry(
        entry, config=config_with(tmp_path, "[training]\nmodel = 'smollm2'\nlora_rank = 8"), stocks=["A"]
    )
    assert (own["model"], own["recipe"], own["overrides"]) == ("smollm2", "default", "training.lora_rank = 8")
    demo = load_recipe(PREFECT_FILE.parent / "recipes" / "demo.toml")
    _, packaged = resolve_entry(entry, config=demo, stocks=["DEMO"])
    assert (packaged["recipe"], packaged["overrides"], packaged["stock"]) == ("demo", "", "DEMO")


def config_with(folder: Path, text: str) -> PipelineConfig:
    (folder / "A.csv").touch()
    (folder / "own.toml").write_text(text)
    return build_config(recipe=folder / "own.toml", flags={"data": folder})


def test_deployments_of_an_earlier_version_are_replaced_and_keep_what_a_user_switched(
    client: Any, tmp_path: Path
) -> None:
    from prefect.exceptions import ObjectNotFound

    night = client.read_deployment_by_name("nightly/2-retrain-all-stocks")
    former = night.model_dump(mode="json", include={"flow_id", "entrypoint", "tags", "work_pool_name"})
    schedules = [{"slug": "tickerforge-night", "active": False, "schedule": {"cron": "1 1 * * *"}}]
    client.delete_deployment(night.id)
    client._client.post("/deployments/", json=former | {"name": "all", "paused": True, "schedules": schedules})
    (tmp_path / "AAPL.csv").touch()
    deploy(data=tmp_path)
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name("nightly/all")
    found = client.read_deployment_by_name("nightly/2-retrain-all-stocks")
    assert (found.paused, [each.active for each in found.schedules]) == (True, [False])
