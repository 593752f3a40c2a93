"""Addresses about files: commits, listings, contents, and the store of large files in its two forms."""

import base64
import hashlib
import json
import re
import time
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote

import card_rules
from repositories import Commit, File, LargeFile, Refusal, RegularFile, Repository, checked_path
from routing import Answer, Call, NotHere, paged, readable_repository, route, writable_repository

DAY = 24 * 60 * 60


@route("POST", "/api/{types}/{id}/preupload/{revision}")
def preupload(call: Call) -> Answer:
    """Say how each file must be uploaded, and what the repository has under its name."""
    repository, asked = writable_repository(call), call.json()
    if "gitIgnore" in asked:
        raise NotHere("uploads with .gitignore")
    present = repository.find(call.names["revision"]).files
    answers = []
    for file in asked["files"]:
        large = repository.keeps_large(file["path"], file["size"], base64.b64decode(file["sample"]))
        answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        known = present.get(file["path"])
        if known is not None:
            answer["oid"] = known.sha256 if isinstance(known, LargeFile) else known.blob_id
        answers.append(answer)
    return Answer.json({"files": answers})


@route("POST", "/api/{types}/{id}/commit/{revision}")
def commit(call: Call) -> Answer:
    """Change files of a branch or a pull request, a new one if that is asked for: all, or nothing.

    Differs: on the Hub, whoever may read a repository may also open a pull request.
    """
    repository, branch = writable_repository(call), call.names["revision"]
    heads = {**repository.branches, **repository.pull_requests}
    if branch not in heads:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    lines = [json.loads(line) for line in call.body.splitlines()]
    header = lines[0]["value"]
    parent = header.get("parentCommit") or heads[branch]
    is_proposal = call.is_set("create_pr")
    if is_proposal and branch != "main":
        raise Refusal(400, "A pull request begins at main")
    if not is_proposal and not heads[branch].startswith(parent):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.find(parent).files)
    for line in lines[1:]:
        change(call, files, line["key"], line["value"])
    readme = files.get("README.md")
    errors = card_rules.problems(repository.read(readme).decode(), repository.type)[0] if readme else []
    if errors:
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
    assert call.user is not None
    proposal = {}
    if is_proposal:
        number = repository.open_pull_request(repository.find(parent).id)
        branch = f"refs/pr/{number}"
        proposal = {"pullRequestUrl": f"{call.address}/discussions/{number}"}
    made = repository.commit(branch, header["summary"], header.get("description", ""), call.user.name, files)
    answer = {"success": True, "commitOid": made.id, "commitUrl": f"{call.address}/commit/{made.id}", "hookOutput": ""}
    return Answer.json({**answer, **proposal})


def change(call: Call, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Apply one line of a commit."""
    path = checked_path(value["path"].rstrip("/"))
    if key == "file":
        if value["encoding"] != "base64":
            raise NotHere(f"a file in {value['encoding']}")
        files[path] = RegularFile(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        size = call.hub.size_of_large(value["oid"])
        if size is None or size != value.get("size", size):
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
        files[path] = LargeFile(value["oid"], size)
    elif key in ("deletedFile", "deletedFolder"):
        doomed = [name for name in files if name == path or (key[7:] == "Folder" and name.startswith(f"{path}/"))]
        if not doomed:
            raise Refusal(404, f"A file to delete was not found: {path}", "EntryNotFound")
        for name in doomed:
            del files[name]
    else:
        raise NotHere(f"a commit with {key}")


@route("GET", "/api/{types}/{id}/tree/{revision}")
def list_tree(call: Call) -> Answer:
    """List a folder, or all that is below it."""
    repository = readable_repository(call)
    found, folder = repository.find(call.names["revision"]), call.names.get("path", "").strip("/")
    entries = entries_of(call, repository, found)
    if folder and entries.get(folder, {}).get("type") != "directory":
        raise Refusal(404, f"{folder} does not exist on {found.id}", "EntryNotFound", {"X-Repo-Commit": found.id})
    inside = f"{folder}/" if folder else ""
    below = [path for path in entries if path.startswith(inside) and path != folder]
    if not call.is_set("recursive"):
        below = [path for path in below if "/" not in path[len(inside) :]]
    return paged(call, [entries[path] for path in sorted(below)])


route("GET", "/api/{types}/{id}/tree/{revision}/{path}")(list_tree)


@route("POST", "/api/{types}/{id}/paths-info/{revision}")
def paths_info(call: Call) -> Answer:
    """Describe some files and folders, and say nothing of those that do not exist."""
    repository = readable_repository(call)
    form = parse_qs(call.body.decode())
    call.query.update(form)
    entries = entries_of(call, repository, repository.find(call.names["revision"]))
    return Answer.json([entries[path] for path in form.get("paths", []) if path in entries])


def entries_of(call: Call, repository: Repository, found: Commit) -> dict[str, dict[str, Any]]:
    """Describe every file and folder of a commit; with `expand`, also who has changed it last."""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in found.files.items():
        entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
        if isinstance(file, LargeFile):
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
            xet_hash = call.hub.xet.hash_of(file.sha256)
            entry |= {"xetHash": xet_hash} if xet_hash else {}
        if call.is_set("expand"):
            last = last_change(repository, found, path)
            entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
        entries[path] = entry
        for folder in map(str, PurePosixPath(path).parents):
            if folder != ".":
                tree = hashlib.sha1(f"{found.id} {folder}".encode()).hexdigest()
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": tree}
    return entries


def last_change(repository: Repository, found: Commit, path: str) -> Commit:
    """Find the commit that has made a file what it is."""
    made = found
    for earlier in repository.log(found.id):
        if earlier.files.get(path) != found.files[path]:
            break
        made = earlier
    return made


@route("GET HEAD", "/{prefix}{id}/resolve/{revision}/{path}")
def resolve(call: Call) -> Answer:
    """Give a file, or say where it lies if it is large."""
    repository = readable_repository(call)
    found, file = repository.find_file(call.names["revision"], call.names["path"])
    name = PurePosixPath(call.names["path"]).name
    headers = {
        "X-Repo-Commit": found.id,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";",
    }
    if isinstance(file, RegularFile):
        return part_of(call, file.content, {**headers, "ETag": f'"{file.blob_id}"'})
    headers |= {
        "Location": call.hub.storage_link("GET", file.sha256),
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
    }
    xet_hash = call.hub.xet.hash_of(file.sha256)
    if xet_hash is not None:
        headers["X-Xet-Hash"] = xet_hash
        renewal = f"{call.hub.url}/api/{repository.type}s/{repository.id}/xet-read-token/{found.id}"
        headers["Link"] = f'<{renewal}>; rel="xet-auth"'
    return Answer(b"Found. Redirecting to another host", 302, headers)


def part_of(call: Call, content: bytes, headers: dict[str, str]) -> Answer:
    """Give a content, or the range of it that is asked for."""
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    wanted = call.headers.get("Range")
    if wanted is None:
        return Answer(content, 200, {**headers, "Content-Length": str(len(content))})
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if match is None or not (match[1] or match[2]):
        raise NotHere(f"range {wanted!r}")
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or len(content)) + 1, len(content))
    else:
        start, end = max(len(content) - int(match[2]), 0), len(content)
    if start >= end:
        raise Refusal(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(content[start:end], 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})


@route("POST", r"/{prefix}{id}\.git/info/lfs/objects/batch")
def lfs_batch(call: Call) -> Answer:
    """Say where each large file must be sent; those that are here need not be."""
    writable_repository(call)
    asked = call.json()
    if asked["operation"] != "upload" or "basic" not in asked["transfers"]:
        raise NotHere(f"{asked['operation']} by {asked['transfers']}")
    objects = []
    for wanted in asked["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in call.hub.large_files:
            verify = f"{call.address}.git/info/lfs/objects/verify"
            links = {"upload": call.hub.storage_link("PUT", wanted["oid"]), "verify": verify}
            entry["actions"] = {name: {"href": link} for name, link in links.items()}
        objects.append(entry)
    return Answer.json({"transfer": "basic", "objects": objects})


@route("POST", r"/{prefix}{id}\.git/info/lfs/objects/verify")
def lfs_verify(call: Call) -> Answer:
    """Say whether a large file has arrived whole."""
    writable_repository(call)
    asked = call.json()
    if len(call.hub.large_files.get(asked["oid"], b"")) != asked["size"]:
        raise Refusal(404, f"{asked['oid']} has not arrived")
    return Answer.json({})


@route("PUT", "/large/{sha256}", origin="storage")
def upload(call: Call) -> Answer:
    """Take a large file in."""
    check_signature(call, "PUT")
    sha256 = call.names["sha256"]
    if hashlib.sha256(call.body).hexdigest() != sha256:
        raise Refusal(400, "the content does not have this SHA-256")
    call.hub.large_files[sha256] = call.body
    return Answer()


@route("GET HEAD", "/large/{sha256}", origin="storage")
def download(call: Call) -> Answer:
    """Give a large file, or a range of it."""
    check_signature(call, "GET")
    return part_of(call, call.hub.read_large(call.names["sha256"]), {"ETag": f'"{call.names["sha256"][:32]}"'})


def check_signature(call: Call, method: str) -> None:
    """Refuse who was not sent here by the Hub, and who brings its token along."""
    if "Authorization" in call.headers:
        raise Refusal(400, "Only one auth mechanism allowed")
    if call.query.get("signature") != [call.hub.signature(method, call.names["sha256"])]:
        raise Refusal(403, "The signature does not match")


@route("GET", "/api/{types}/{id}/xet-{access}-token/{revision}")
def xet_token(call: Call) -> Answer:
    """Send a Xet client to its store."""
    (writable_repository if call.names["access"] == "write" else readable_repository)(call)
    expires, token = int(time.time()) + DAY, "a-token-of-xet"
    headers = {"X-Xet-Cas-Url": call.hub.xet.url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return Answer.json({"casUrl": call.hub.xet.url, "exp": expires, "accessToken": token}, headers=headers)
