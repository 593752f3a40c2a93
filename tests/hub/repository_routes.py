"""Addresses about users and whole repositories: who I am, create, delete, settings, information, branches and tags."""

import json
from typing import Any

import card_rules
from repositories import Commit, LargeFile, Refusal, Repository
from routing import (
    Answer,
    Call,
    NotHere,
    check_may_write,
    paged,
    readable_repository,
    route,
    visible_repository,
    writable_repository,
)


@route("GET", "/api/agent-harnesses")
def agent_harnesses(call: Call) -> Answer:
    """Say which programs for agents the client should look for: none."""
    return Answer.json({"harnesses": {}, "standard_env_vars": []})


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    """Say whose token it is."""
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    return Answer.json(
        {
            "type": "user",
            "name": call.user.name,
            "orgs": [{"name": name, "type": "org"} for name in call.user.organizations],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": call.user.role}},
        }
    )


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Answer:
    """Validate the metadata of a card."""
    asked = call.json()
    errors, warnings = card_rules.problems(asked["content"], asked["repoType"])
    found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Answer.json(found, 400 if errors else 200)


@route("POST", "/api/repos/create")
def create_repository(call: Call) -> Answer:
    """Create a repository, unless there is one of this name."""
    asked = call.json()
    repo_type = asked.get("type") or "model"
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    repo_id = f"{asked.get('organization') or call.user.name}/{asked['name']}"
    user = check_may_write(call, repo_id.split("/")[0])
    call.names.update(types=f"{repo_type}s", id=repo_id)
    created = {"url": call.address, "name": repo_id, "id": repo_id}
    if (repo_type, repo_id) in call.hub.repositories:
        raise Refusal(409, f"You already created this {repo_type} repo", body=created)
    call.hub.create(repo_id, repo_type, user.name, private=asked.get("visibility") == "private")
    return Answer.json(created)


@route("DELETE", "/api/repos/delete")
def delete_repository(call: Call) -> Answer:
    """Delete a repository."""
    asked = call.json()
    owner = asked.get("organization") or (call.user.name if call.user else "")
    call.names.update(types=f"{asked.get('type') or 'model'}s", id=f"{owner}/{asked['name']}")
    repository = writable_repository(call)
    del call.hub.repositories[repository.type, repository.id]
    return Answer.json({})


@route("PUT", "/api/{types}/{id}/settings")
def change_settings(call: Call) -> Answer:
    """Make a repository private, public or gated."""
    repository, asked = writable_repository(call), call.json()
    if asked.keys() - {"visibility", "gated"}:
        raise NotHere(f"settings {asked}")
    if "visibility" in asked:
        repository.private = asked["visibility"] == "private"
    repository.gated = asked.get("gated", repository.gated)
    return Answer.json({"private": repository.private, "gated": repository.gated})


@route("GET", "/api/{types}/{id}/auth-check")
def check_reading(call: Call) -> Answer:
    """Say whether the user may read the files."""
    readable_repository(call)
    return Answer.json({})


@route("GET", "/api/{types}/{id}/auth-check/write")
def check_writing(call: Call) -> Answer:
    """Say whether the user may write."""
    writable_repository(call)
    return Answer.json({})


@route("GET", "/api/{types}/{id}")
def repository_info(call: Call) -> Answer:
    """Describe a repository at the head of `main`, or at another revision."""
    repository = visible_repository(call)
    commit = repository.find(call.names.get("revision", "main"))
    info = describe(repository, commit)
    if "expand" in call.query:
        wanted = {*call.query["expand"]}
        if wanted - info.keys():
            raise NotHere(f"expand={sorted(wanted - info.keys())}")
        return Answer.json({name: info[name] for name in {"id", "_id", *wanted}})
    if call.is_set("blobs"):
        info["siblings"] = [sibling(path, file) for path, file in sorted(commit.files.items())]
    return Answer.json(info)


route("GET", "/api/{types}/{id}/revision/{revision}")(repository_info)


def describe(repository: Repository, commit: Commit) -> dict[str, Any]:
    """Write what the Hub knows of a repository; its task, library and tags come from the card."""
    card = read_card(repository, commit)
    log = list(repository.log(commit.id))
    info = {
        "_id": repository.commits[log[-1].id].id[:24],
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.id,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": log[-1].date,
        "lastModified": commit.date,
        "tags": [*card_rules.texts(card.get("tags", [])), *tags_of(card)],
        "cardData": card,
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        "usedStorage": sum(file.size for file in commit.files.values()),
    }
    if repository.type == "model":
        config = read_json(repository, commit, "config.json")
        info |= {
            "modelId": repository.id,
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "config": {key: config[key] for key in ("architectures", "auto_map", "model_type") if key in config},
            "model-index": card.get("model-index"),
        }
    return info


def tags_of(card: dict[str, Any]) -> list[str]:
    """Derive tags from the fields of a card."""
    plain = [card[name] for name in ("library_name", "pipeline_tag") if name in card]
    prefixes = {"license": "license", "datasets": "dataset", "base_model": "base_model"}
    linked = [f"{tag}:{value}" for name, tag in prefixes.items() for value in card_rules.texts(card.get(name, []))]
    return plain + linked


def sibling(path: str, file: Any) -> dict[str, Any]:
    """Describe a file in the list of a repository's files."""
    entry: dict[str, Any] = {"rfilename": path, "size": file.size, "blobId": file.blob_id}
    if isinstance(file, LargeFile):
        entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return entry


def read_card(repository: Repository, commit: Commit) -> dict[str, Any]:
    """Read the metadata of a card."""
    readme = commit.files.get("README.md")
    return card_rules.card_metadata(repository.read(readme).decode()) or {} if readme else {}


def read_json(repository: Repository, commit: Commit, path: str) -> dict[str, Any]:
    """Read a JSON file, if it is there and sound."""
    try:
        value = json.loads(repository.read(commit.files[path]))
    except (KeyError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@route("GET", "/api/{types}/{id}/refs")
def list_refs(call: Call) -> Answer:
    """List branches and tags, and pull requests if they are asked for."""
    repository = visible_repository(call)

    def refs(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{kind}{name}", "targetCommit": id} for name, id in names.items()]

    found = {
        "branches": refs("refs/heads/", repository.branches),
        "tags": refs("refs/tags/", repository.tags),
        "converts": [],
        "pullRequests": refs("", repository.pull_requests) if call.is_set("include_prs") else [],
    }
    return Answer.json(found)


@route("GET", "/api/{types}/{id}/commits/{revision}")
def list_commits(call: Call) -> Answer:
    """List commits, the last first."""
    log = readable_repository(call).log(call.names["revision"])
    keys = ("id", "title", "message", "date")
    return paged(call, [{**{key: getattr(c, key) for key in keys}, "authors": [{"user": c.author}]} for c in log])


@route("POST", "/api/{types}/{id}/branch/{branch}")
def create_branch(call: Call) -> Answer:
    """Create a branch at a revision."""
    repository, name = writable_repository(call), call.names["branch"]
    start = repository.find(call.json().get("startingPoint") or "main")
    if name in repository.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{name}")
    repository.branches[name] = start.id
    return Answer.json({})


@route("DELETE", "/api/{types}/{id}/branch/{branch}")
def delete_branch(call: Call) -> Answer:
    """Delete a branch other than `main`."""
    repository, name = writable_repository(call), call.names["branch"]
    if name == "main":
        raise Refusal(403, "Cannot delete the default branch")
    return forget(repository.branches, name)


@route("POST", "/api/{types}/{id}/tag/{revision}")
def create_tag(call: Call) -> Answer:
    """Give a revision a name that stays with it."""
    repository, name = writable_repository(call), call.json()["tag"]
    commit = repository.find(call.names["revision"])
    if name in repository.tags:
        raise Refusal(409, f"Tag reference exists already: {name}")
    repository.tags[name] = commit.id
    return Answer.json({})


@route("DELETE", "/api/{types}/{id}/tag/{tag}")
def delete_tag(call: Call) -> Answer:
    """Forget a tag."""
    return forget(writable_repository(call).tags, call.names["tag"])


def forget(names: dict[str, str], name: str) -> Answer:
    """Take a name of a commit away."""
    if name not in names:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    del names[name]
    return Answer.json({})


@route("GET", "/info", origin="viewer")
def viewer_info(call: Call) -> Answer:
    """Say that the dataset viewer knows nothing of a dataset, as of a new or private one."""
    raise Refusal(
        404, "The dataset does not exist, or is not accessible without authentication.", "ExternalUnauthenticatedError"
    )
