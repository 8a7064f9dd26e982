"""The endpoints in each generation, over one store."""

import base64
import json
from datetime import datetime

import httpx
import pytest

from rotator.sandbox import Sandbox
from rotator.sandbox.store import Record

ORG = "/organizations/clorg0000000000000000000a"
COLLECTIONS = {
    "v1": f"/v1{ORG}/tokens",
    "v1beta1": f"/iam/v1beta1{ORG}/tokens",
    "v1alpha1": f"/v1alpha1{ORG}/api-tokens",
}


def seeded(sandbox: Sandbox, scope: str = "ORGANIZATION", nth: int = 0) -> Record:
    owner = sandbox.store.owner_id
    return [row for row in sandbox.store.tokens.values() if row.scope == scope and row.id != owner][nth]


def home(sandbox: Sandbox, record: Record) -> str:
    """The collection of v1alpha1 that a token lives in."""
    noun = {"WORKSPACE": f"/workspaces/{record.entity_id}", "DEPLOYMENT": f"/deployments/{record.entity_id}"}
    return f"/v1alpha1{ORG}{noun.get(record.scope, '')}/api-tokens"


@pytest.mark.parametrize("generation", COLLECTIONS)
def test_an_organization_token_lives_and_dies_in_each_generation(
    generation: str, sandbox: Sandbox, owner: httpx.Client
) -> None:
    path, field = COLLECTIONS[generation], "scope" if generation == "v1" else "type"
    body = {"name": "one", "role": "ORGANIZATION_MEMBER", field: "ORGANIZATION", "tokenExpiryPeriodInDays": 30}
    made = owner.post(path, json=body)
    assert made.status_code == 200
    assert made.headers["content-type"] == "application/json"
    token_id, first = made.json()["id"], made.json()["token"]
    assert made.json()[field] == "ORGANIZATION"
    assert made.json()["description"] == ""
    assert sandbox.store.authenticates_as(first) == token_id

    rotated = owner.post(f"{path}/{token_id}/rotate")
    assert rotated.status_code == 200
    assert not sandbox.store.is_alive(first)
    assert sandbox.store.authenticates_as(rotated.json()["token"]) == token_id
    assert sandbox.store.rotations(token_id) == sandbox.store.posts(token_id) == 1

    change: dict[str, object] = {
        "name": "two",
        "description": "changed",
        "roles": {"organization": "ORGANIZATION_OWNER"},
    }
    updated = owner.post(f"{path}/{token_id}", json=change)
    assert updated.status_code == 200
    shown = owner.get(f"{path}/{token_id}").json()
    assert (shown["name"], shown["description"]) == ("two", "changed")
    assert shown["roles"][0]["role"] == ("ORGANIZATION_OWNER" if generation == "v1alpha1" else "ORGANIZATION_MEMBER")
    assert "token" not in shown
    assert "token" not in updated.json()

    gone = owner.delete(f"{path}/{token_id}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert owner.delete(f"{path}/{token_id}").status_code == 404
    assert owner.get(f"{path}/{token_id}").json()["statusCode"] == 404
    assert not sandbox.store.is_alive(rotated.json()["token"])


@pytest.mark.parametrize("generation", COLLECTIONS)
def test_each_generation_has_its_own_fields(generation: str, sandbox: Sandbox, owner: httpx.Client) -> None:
    token_id = seeded(sandbox).id
    owner.post(f"{COLLECTIONS['v1']}/{token_id}/rotate")
    shown = owner.get(f"{COLLECTIONS[generation]}/{token_id}").json()
    assert ("scope" in shown, "type" in shown) == (generation == "v1", generation != "v1")
    assert ("kind" in shown) == ("lastRotatedAt" in shown) == (generation != "v1alpha1")
    assert ("createdById" in shown) == ("organizationName" in shown) == (generation == "v1alpha1")


@pytest.mark.parametrize("scope", ["WORKSPACE", "DEPLOYMENT"])
def test_v1alpha1_has_paths_for_workspaces_and_deployments(scope: str, sandbox: Sandbox, owner: httpx.Client) -> None:
    record = seeded(sandbox, scope)
    path = home(sandbox, record)
    listed = owner.get(path, params={"limit": 5000, "tokenTypes": scope}).json()
    assert record.id in {row["id"] for row in listed["apiTokens"]}
    assert {row["type"] for row in listed["apiTokens"]} == {scope}
    assert owner.post(f"{path}/{record.id}/rotate").json()["id"] == record.id
    assert owner.get(f"{COLLECTIONS['v1alpha1']}/{record.id}").status_code == 404
    role = {"WORKSPACE": {"roles": {"workspace": "WORKSPACE_AUTHOR"}}, "DEPLOYMENT": {"role": "custom"}}[scope]
    updated = owner.post(f"{path}/{record.id}", json={"name": "n", "description": "", **role})
    assert updated.json()["roles"][0]["role"] in ("WORKSPACE_AUTHOR", "custom")
    made = owner.post(path, json={"name": "n", "role": role.get("role", "WORKSPACE_MEMBER")})
    assert made.json()["type"] == scope
    assert sandbox.store.tokens[made.json()["id"]].entity_id == record.entity_id


def test_rotate_renews_start_and_expiry_and_keeps_the_rest(sandbox: Sandbox, owner: httpx.Client) -> None:
    record = next(row for row in sandbox.store.tokens.values() if row.expiry_days)
    path = f"{COLLECTIONS['v1']}/{record.id}"
    before, after = owner.get(path).json(), owner.post(f"{path}/rotate").json()
    assert all(
        after[key] == before[key] for key in ("id", "name", "description", "roles", "createdAt", "expiryPeriodInDays")
    )
    assert after["startAt"] == after["lastRotatedAt"] == after["updatedAt"] > before["startAt"]
    life = datetime.fromisoformat(after["endAt"]) - datetime.fromisoformat(after["startAt"])
    assert life.days == record.expiry_days
    assert after["shortToken"] != before["shortToken"]
    assert after["startAt"][-5] == "."
    assert after["startAt"].endswith("Z")


def test_expiry_stays_where_the_config_says_so(start, connect) -> None:
    sandbox = start(limits=False, rotate_moves_expiry=False)
    record = next(row for row in sandbox.store.tokens.values() if row.expiry_days)
    end = record.end_at
    answer = connect(sandbox).post(f"{COLLECTIONS['v1']}/{record.id}/rotate").json()
    assert datetime.fromisoformat(answer["endAt"]) == end


def test_a_secret_is_a_jwt_with_the_claims_that_clients_read(sandbox: Sandbox) -> None:
    record = next(row for row in sandbox.store.tokens.values() if row.scope == "WORKSPACE" and row.end_at)
    parts = sandbox.store.secret_of(record.id).split(".")
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    assert len(parts) == 3
    assert claims["apiTokenId"] == record.id
    assert claims["org_id"] == sandbox.organization_id
    assert claims["exp"] == int(record.end_at.timestamp())
    assert f"workspaceId:{record.entity_id}" in claims["permissions"]
    assert all(":" in permission for permission in claims["permissions"])


def test_a_list_pages_by_twenty_and_at_most_a_thousand(start, connect) -> None:
    sandbox = start(tokens=1100, limits=False)
    owner, path = connect(sandbox), COLLECTIONS["v1"]
    first = owner.get(path).json()
    assert (len(first["tokens"]), first["limit"], first["offset"], first["totalCount"]) == (20, 20, 0, 1101)
    refused = owner.get(path, params={"limit": 1001})
    assert refused.status_code == 400
    assert refused.json()["fieldErrors"][0]["field"] == "limit"
    pages = [owner.get(path, params={"offset": n, "limit": 1000, "sorts": "name:asc"}).json() for n in (0, 1000)]
    rows = [row for page in pages for row in page["tokens"]]
    assert len({row["id"] for row in rows}) == 1101
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    assert owner.get(path, params={"limit": 0}).json()["tokens"] == []
    assert owner.get(path, params={"limit": -1}).status_code == 400
    assert len(owner.get(COLLECTIONS["v1alpha1"], params={"limit": 5000}).json()["apiTokens"]) > 300


def test_the_default_order_shifts_under_a_reader(sandbox: Sandbox, owner: httpx.Client) -> None:
    def ids(**query: object) -> list[str]:
        rows = owner.get(COLLECTIONS["v1"], params={"limit": 1000} | query).json()["tokens"]
        return [row["id"] for row in rows]

    before, sorted_before = ids(), ids(sorts="createdAt:asc")
    owner.post(f"{COLLECTIONS['v1']}/{before[3]}/rotate")
    assert ids() == before[:3] + before[4:] + [before[3]]
    assert ids(sorts="createdAt:asc") == sorted_before
    assert ids(sorts="updatedAt:desc")[0] == before[3]
    assert ids(sorts="tokenStartAt:desc")[0] == before[3]


def test_filters_keep_what_they_name(sandbox: Sandbox, owner: httpx.Client) -> None:
    def rows(**query: str) -> list[dict[str, object]]:
        return owner.get(COLLECTIONS["v1"], params={"limit": "1000"} | query).json()["tokens"]

    assert {row["scope"] for row in rows(includeOnlyOrganizationTokens="true")} == {"ORGANIZATION"}
    deployment = seeded(sandbox, "DEPLOYMENT")
    assert {row["id"] for row in rows(deploymentId=deployment.entity_id)} >= {deployment.id}
    inside = rows(workspaceId=deployment.workspace_id)
    assert {row["scope"] for row in inside} == {"ORGANIZATION", "WORKSPACE", "DEPLOYMENT"}
    assert len(inside) < len(sandbox.store.tokens)
    assert rows(kind="DIRECT_ACCESS") == []
    assert owner.get(COLLECTIONS["v1"], params={"kind": "x"}).status_code == 400
    assert owner.get(COLLECTIONS["v1"], params={"sorts": "lastRotatedAt:asc"}).status_code == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "ORGANIZATION_MEMBER", "scope": "ORGANIZATION"}, "name"),
        ({"name": "n" * 257, "role": "ORGANIZATION_MEMBER", "scope": "ORGANIZATION"}, "name"),
        ({"name": "n", "role": "WORKSPACE_OWNER", "scope": "ORGANIZATION"}, "role"),
        ({"name": "n", "role": "ORGANIZATION_MEMBER", "scope": "AGENT"}, "scope"),
        ({"name": "n", "role": "WORKSPACE_OWNER", "scope": "WORKSPACE"}, "entityId"),
        (
            {"name": "n", "role": "ORGANIZATION_MEMBER", "scope": "ORGANIZATION", "tokenExpiryPeriodInDays": 3651},
            "tokenExpiryPeriodInDays",
        ),
    ],
)
def test_a_bad_create_names_its_field(
    body: dict[str, object], field: str, sandbox: Sandbox, owner: httpx.Client
) -> None:
    known = set(sandbox.store.tokens)
    answer = owner.post(COLLECTIONS["v1"], json=body)
    assert answer.status_code == 400
    assert [row["field"] for row in answer.json()["fieldErrors"]] == [field]
    assert set(sandbox.store.tokens) == known


def test_roles_are_replaced_as_a_whole_and_answered_as_subject_roles(sandbox: Sandbox, owner: httpx.Client) -> None:
    record, workspace = seeded(sandbox), sandbox.store.workspaces[1]
    path = f"{COLLECTIONS['v1beta1']}/{record.id}/roles"
    own = {"entityType": "ORGANIZATION", "entityId": sandbox.organization_id, "role": "ORGANIZATION_BILLING_ADMIN"}
    other = {"entityType": "WORKSPACE", "entityId": workspace, "role": "WORKSPACE_AUTHOR"}
    answer = owner.post(path, json={"roles": [own, other]})
    assert answer.json() == {
        "organizationRole": "ORGANIZATION_BILLING_ADMIN",
        "workspaceRoles": [{"workspaceId": workspace, "role": "WORKSPACE_AUTHOR"}],
    }
    assert [role.role for role in record.roles] == ["ORGANIZATION_BILLING_ADMIN", "WORKSPACE_AUTHOR"]
    assert owner.post(path, json={"roles": []}).status_code == 400
    assert owner.post(path, json={"roles": [other]}).status_code == 400
    inner = seeded(sandbox, "WORKSPACE")
    raised = owner.post(f"{COLLECTIONS['v1']}/{inner.id}/roles", json={"roles": [own]})
    assert raised.status_code == 400


def test_an_update_without_description_keeps_it_and_garbage_is_refused(sandbox: Sandbox, owner: httpx.Client) -> None:
    record = seeded(sandbox)
    path, description = f"{COLLECTIONS['v1']}/{record.id}", record.description
    assert owner.post(path, json={"name": "new"}).json()["description"] == description
    assert owner.post(path, json={"name": "new", "description": "d" * 501}).status_code == 400
    assert owner.post(path, content=b"[").status_code == 400
    assert owner.post(path, json=[1]).status_code == 400


@pytest.mark.parametrize("base", ["/v1", "/platform/v1beta1", "/v1alpha1"])
def test_organizations_are_listed_with_a_product(base: str, sandbox: Sandbox, owner: httpx.Client) -> None:
    listed = owner.get(f"{base}/organizations", params={"limit": 100, "offset": 0}).json()
    assert [(row["id"], row["product"]) for row in listed["organizations"]] == [(sandbox.organization_id, "HOSTED")]
    assert listed["totalCount"] == 1


def test_unknown_paths_methods_and_organizations_are_application_errors(owner: httpx.Client) -> None:
    assert owner.get("/v1/nothing").json()["statusCode"] == 404
    assert owner.put(COLLECTIONS["v1"]).json()["statusCode"] == 405
    assert owner.get("/v1/organizations/other/tokens").json()["statusCode"] == 403
    assert owner.get(f"{COLLECTIONS['v1']}/nobody").json()["statusCode"] == 404
