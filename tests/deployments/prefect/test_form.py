"""The form of a deployment in the UI: what it offers, takes and refuses."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tickerforge.deployments.prefect.deploy import deploy
from tickerforge.flows.settings.config import PipelineConfig

MANUAL = "train-ticker/manual"


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


def leaves(node: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node["properties"].items():
        yield f"{path}{name}", field
        if "$ref" in field:
            yield from leaves(definitions[field["$ref"].rsplit("/", 1)[-1]], definitions, f"{path}{name}.")


def settings_of(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field
        if hasattr(field.annotation, "model_fields"):
            yield from settings_of(field.annotation, f"{path}{name}.")


def test_every_field_of_the_form_has_a_description_and_every_choice_and_bound_of_the_model(client: Any) -> None:
    from typing import Literal, get_args, get_origin

    schema = client.read_deployment_by_name(MANUAL).parameter_openapi_schema
    assert schema["additionalProperties"] is False
    assert all(definition["additionalProperties"] is False for definition in schema["definitions"].values())
    form = dict(leaves(schema, schema["definitions"], ""))
    assert [name for name, field in form.items() if not field.get("description")] == []
    assert form["heavy_stages"]["enum"] == ["here", "gpu-pool"]
    assert form["config.stock"]["enum"] == ["AAPL", "BRK.B", "ALL"]
    words = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    compared = 0
    for name, field in settings_of(PipelineConfig):
        shown = form[f"config.{name}"]
        if get_origin(field.annotation) is Literal:
            assert shown["enum"] == list(get_args(field.annotation)), name
            compared += 1
        number = next(
            (each for each in (shown, *shown.get("anyOf", [])) if each.get("type") in ("integer", "number")), {}
        )
        for constraint in field.metadata:
            for attribute, word in words.items():
                if hasattr(constraint, attribute):
                    assert number[word] == getattr(constraint, attribute), name
                    compared += 1
    assert compared > 60


def test_a_heavy_stage_is_taken_for_a_stock_that_is_newer_than_the_deployment(client: Any) -> None:
    schema = client.read_deployment_by_name("heavy-stage/gpu").parameter_openapi_schema
    assert "enum" not in schema["definitions"]["PipelineConfig"]["properties"]["stock"]


def submit(client: Any, changes: dict[str, Any], **parameters: Any) -> tuple[int, str]:
    """Start a run as the form does, and put it away where it was accepted."""
    from prefect.exceptions import PrefectHTTPStatusError

    manual = client.read_deployment_by_name(MANUAL)
    config = json.loads(json.dumps(manual.parameters["config"]))
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        group = config
        for parent in parents:
            group = group[parent]
        group[leaf] = value
    body = {"parameters": {**manual.parameters, "config": config, **parameters}}
    try:
        answer = client._client.post(f"/deployments/{manual.id}/create_flow_run", json=body)
    except PrefectHTTPStatusError as error:
        return error.response.status_code, error.response.text
    client.delete_flow_run(answer.json()["id"])
    return answer.status_code, answer.text


def test_the_form_takes_good_values(client: Any) -> None:
    assert submit(client, {"stock": "BRK.B", "training.grpo_1st.learning_rate": None, "seed": 3})[0] == 201
    assert submit(client, {}, heavy_stages="here", exchange="XNYS")[0] == 201


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stock", "MSFT"),
        ("stock", "../AAPL"),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", "7"),
        ("warm_start", "champ"),
        ("features.horizon", 0),
        ("features.units", "sigmas"),
        ("training.backend", "jax"),
        ("training.lora_rank", 1000),
        ("training.tiny.hidden_size", 100),
        ("training.grpo_1st.learning_rate", 0),
        ("training.sampling.temperature", "hot"),
        ("evaluation.interval", 1),
        ("gate.max_p_value", None),
    ],
)
def test_the_form_refuses_a_bad_value_and_names_its_field(client: Any, key: str, value: object) -> None:
    status, text = submit(client, {key: value})
    assert status in (409, 422)
    assert f"config.{key}" in text


def test_the_form_refuses_what_the_flow_does_not_know(client: Any) -> None:
    for answer in (submit(client, {"training.lora_rnk": 4}), submit(client, {}, heavy_stage="here")):
        assert answer[0] in (409, 422)
        assert "lora_rnk" in answer[1] or "heavy_stage" in answer[1]
    assert submit(client, {}, heavy_stages="moon")[0] == 409
    assert submit(client, {}, exchange="nyse")[0] == 409
