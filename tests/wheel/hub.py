"""Serve the Hub of `tests/hub` to other processes until standard input ends: `python hub.py SCRATCH_FOLDER`.

Prints address and token in a line, and at its end the files of `org/converted`.
"""

import json
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))

from loopback_hub import LoopbackHub  # noqa: E402

listening = socket.socket()
listening.bind(("127.0.0.1", 0))
hub = LoopbackHub(listening, Path(sys.argv[1]) / "xet")
print(json.dumps([hub.url, hub.token]), flush=True)
sys.stdin.read()
print(json.dumps([*hub.repository("org/converted").files()]))
hub.close()
