#!/usr/bin/env bash
# Pushing to a branch replaces the card of that branch by the card of main.
#
# Package: transformers 5.24.0.
# Expected: `push_to_hub(repo, revision="night")` keeps the card of the branch "night", as without `revision` it keeps
#     the card of main.
# Seen: it downloads README.md of main, whatever `revision` is, and commits it to "night".
# Why it matters: what a branch documents of its own is overwritten without a warning.
# How to live with it: save to a folder, and upload that with `huggingface_hub.upload_folder(..., revision="night")`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0

venv/bin/python - <<'PYTHON'
import base64
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

committed = {}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub, on this machine, as a repository with the branches "main" and "night" needs."""

    def log_message(self, *words):
        """Print nothing."""

    def answer(self, body, branch=""):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", branch)
        self.send_header("X-Repo-Commit", branch.ljust(40, "0"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        branch = "night" if "/night/" in self.path else "main"
        self.answer(f"---\nlicense: mit\n---\nThe card of {branch}.\n".encode(), branch)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        reply = {"url": f"{address}/me/model", "name": "me/model", "commitUrl": f"{address}/me/model", "commitOid": "1" * 40}
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            reply["files"] = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
        if "/commit/" in self.path:
            for line in body.splitlines():
                value = json.loads(line)["value"]
                if value.get("path") == "README.md":
                    committed[self.path.rpartition("/")[2]] = base64.b64decode(value["content"]).decode()
        self.answer(json.dumps(reply).encode())


server = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_ENDPOINT"] = address
os.environ["HF_HOME"] = os.path.abspath("home")

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
tokenizer.push_to_hub("me/model", revision="night", token="hf_any")
print(f"committed to the branch night: {committed['night'].splitlines()[-1]!r}")
if not committed["night"].endswith("The card of main.\n"):
    sys.exit("This has changed.")
PYTHON
