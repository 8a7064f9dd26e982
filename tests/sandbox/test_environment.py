"""Deployments and environment objects of the sandbox: full-object updates, masks, links, rights and faults."""

from typing import Any

import httpx
import pytest

from rotator.sandbox import Fault, Sandbox

ROOT = "/v1/organizations/clorg0000000000000000000a"
OBJECTS = f"{ROOT}/environment-objects"


def deployment_of(sandbox: Sandbox) -> str:
    return next(iter(sandbox.environment.deployments))


def whole(shown: dict[str, Any]) -> dict[str, Any]:
    """Turn what was read into a request, as a careful client does."""
    names = (
        "name", "type", "workspaceId", "executor", "isCicdEnforced", "isDagDeployEnabled", "schedulerSize",
        "isHighAvailability",
    )  # fmt: skip
    rows = [{k: v for k, v in row.items() if k != "updatedAt"} for row in shown["environmentVariables"]]
    return {name: shown[name] for name in names} | {"environmentVariables": rows}


def made(sandbox: Sandbox, owner: httpx.Client, **typed: object) -> str:
    body = {"objectKey": "k", "scope": "WORKSPACE", "scopeEntityId": sandbox.store.workspaces[0], **typed}
    answer = owner.post(OBJECTS, json=body)
    assert (answer.status_code, set(answer.json())) == (200, {"id"})
    return str(answer.json()["id"])


def test_an_update_replaces_the_whole_deployment(sandbox: Sandbox, owner: httpx.Client) -> None:
    """Variables and settings that are left out are gone; a secret without a value stays, an empty one blanks it."""
    path = f"{ROOT}/deployments/{deployment_of(sandbox)}"
    deployment = sandbox.environment.deployments[deployment_of(sandbox)]
    body = whole(owner.get(path).json())
    assert body["environmentVariables"][1] == {"key": "DB_PASSWORD", "isSecret": True}
    answer = owner.post(path, json=body | {"environmentVariables": body["environmentVariables"][1:]})
    assert answer.status_code == 200
    assert (deployment.value("TEAM"), deployment.value("DB_PASSWORD")) == (None, "hunter-1")
    assert "workerQueues" not in answer.json()
    owner.post(path, json=body | {"environmentVariables": [{"key": "DB_PASSWORD", "isSecret": True, "value": ""}]})
    assert deployment.value("DB_PASSWORD") == ""
    assert deployment.restarts == 2


@pytest.mark.parametrize("change", [{"name": None}, {"type": "HYBRID"}, {"workspaceId": "x"}, {"id": "x"}])
def test_a_request_that_is_not_whole_is_refused(change: dict[str, object], sandbox: Sandbox, owner: Any) -> None:
    """Missing, unknown and immutable fields are 400 with the field's name."""
    path = f"{ROOT}/deployments/{deployment_of(sandbox)}"
    answer = owner.post(path, json=whole(owner.get(path).json()) | change)
    assert (answer.status_code, answer.json()["fieldErrors"][0]["field"]) == (400, next(iter(change)))


def test_objects_are_masked_and_say_what_is_set(sandbox: Sandbox, owner: httpx.Client) -> None:
    """Secrets come back empty, unless the organization lets showSecrets reveal them; a key exists once."""
    connection = {"type": "http", "password": "p", "extra": {"api_key": "x", "region": "eu"}}
    object_id = made(sandbox, owner, objectType="CONNECTION", connection=connection)
    shown = owner.get(f"{OBJECTS}/{object_id}").json()
    assert shown["connection"] == {"type": "http", "password": "", "extra": {"api_key": "", "region": "eu"}}
    assert set(shown["setFields"]) == {"type", "password", "extra.api_key", "extra.region"}
    query = {"workspaceId": sandbox.store.workspaces[0], "showSecrets": "true"}
    assert owner.get(OBJECTS, params=query).status_code == 400
    sandbox.environment.shows_secrets = True
    assert owner.get(OBJECTS, params=query).json()["environmentObjects"][0]["connection"] == connection
    again = {"objectKey": "k", "objectType": "CONNECTION", "scope": "WORKSPACE", "connection": connection}
    assert owner.post(OBJECTS, json=again | {"scopeEntityId": query["workspaceId"]}).status_code == 409
    assert owner.delete(f"{OBJECTS}/{object_id}").status_code == 204
    assert owner.get(f"{OBJECTS}/{object_id}").status_code == 404


def test_links_that_are_left_out_are_removed_but_overrides_stay(sandbox: Sandbox, owner: httpx.Client) -> None:
    """An update keeps only the links that it says; a link that it says keeps its overrides; "" changes no secret."""
    object_id = made(sandbox, owner, objectType="AIRFLOW_VARIABLE", airflowVariable={"value": "v", "isSecret": True})
    found, link = (
        sandbox.environment.objects[object_id],
        {"scope": "DEPLOYMENT", "scopeEntityId": deployment_of(sandbox)},
    )
    linked = link | {"overrides": {"airflowVariable": {"value": "o"}}}
    body = {"airflowVariable": {"value": ""}}
    owner.post(f"{OBJECTS}/{object_id}", json=body | {"links": [linked], "autoLinkDeployments": True})
    answer = owner.post(f"{OBJECTS}/{object_id}", json=body | {"links": [link]})
    assert answer.json()["links"] == [link | {"setFields": ["value"]}]
    assert (found.links, found.auto_link, found.typed["value"]) == ({link["scopeEntityId"]: {"value": "o"}}, False, "v")
    owner.post(f"{OBJECTS}/{object_id}", json=body)
    assert found.links == {}
    assert owner.post(f"{OBJECTS}/{object_id}", json={"links": [link]}).status_code == 400


def test_rights_edge_and_faults_hold_here_too(sandbox: Sandbox, owner: httpx.Client, connect: Any) -> None:
    """Strangers get 403, unknown things 404, other methods 405; faults can be scripted."""
    path = f"{ROOT}/deployments/{deployment_of(sandbox)}"
    stranger = next(row for row in sandbox.store.tokens.values() if row.roles[0].role == "ORGANIZATION_MEMBER"
                    and len(row.roles) == 1)  # fmt: skip
    client = connect(sandbox, sandbox.store.secret_of(stranger.id))
    assert client.get(path).status_code == 403
    assert client.get(OBJECTS, params={"workspaceId": sandbox.store.workspaces[0]}).status_code == 403
    assert owner.get(f"{ROOT}/deployments/clnone").status_code == 404
    assert owner.put(path).status_code == 405
    assert httpx.get(sandbox.url + path).status_code == 403
    sandbox.script("deployment_get", Fault.ERROR_503_TEXT)
    assert [owner.get(path).status_code for _ in range(2)] == [503, 200]
