#!/usr/bin/env bash
# Ending `accelerate launch` leaves the training process running.
#
# Packages: accelerate 1.15.0, torch 2.13.0.
# Expected: SIGTERM, which schedulers and containers send, reaches the script, as it does under `torchrun`.
# Seen: `accelerate launch --cpu` ends at once, and the script runs on without a parent.
# Why it matters: a script that saves a checkpoint at SIGTERM never does, and its memory and files stay in use.
# How to live with it: start a single process with `python script.py`, or send the signal to the process group.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cat >script.py <<'PYTHON'
import os
import signal
import sys
import time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(f"{sys.argv[1]}.part", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"{sys.argv[1]}.part", sys.argv[1])
time.sleep(60)
PYTHON

# Start a launcher, wait for its script, end the launcher, and name what the script does 5 seconds later.
after_sigterm() {
    local name="$1"
    shift
    "$@" script.py "$name" >"$name.log" 2>&1 &
    local launcher=$!
    until [ -s "$name" ]; do sleep 0.2; done
    local child
    child="$(cat "$name")"
    kill -TERM "$launcher"
    wait "$launcher" || true
    sleep 5
    if kill "$child" 2>/dev/null; then echo "runs"; else echo "has ended"; fi
}

accelerated="$(after_sigterm accelerated venv/bin/accelerate launch --cpu)"
torchrun="$(after_sigterm torchrun venv/bin/torchrun)"
echo "5 s after SIGTERM: the script of accelerate launch $accelerated, that of torchrun $torchrun"
if [ "$accelerated" != "runs" ] || [ "$torchrun" != "has ended" ]; then
    echo "This has changed."
    exit 1
fi
