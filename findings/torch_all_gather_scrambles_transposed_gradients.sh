#!/usr/bin/env bash
# The differentiable all_gather of torch gives wrong gradients where those that reach it are transposed in memory.
#
# Packages: torch 2.13.0.
# Expected: `torch.distributed.nn.functional.all_gather` passes to each process the sum of the gradients of its rows,
#     whatever the order of their memory.
# Seen: a gradient of transposed strides, as `einsum` and `.T` leave them, is sent as it lies in memory and read as if it
#     lay in the order of its dimensions, so that its values arrive in other places. The losses are right.
# Why it matters: a contrast of pictures and texts over several processes trains one side on wrong gradients in silence.
# How to live with it: call `.contiguous()` on what comes out of a hook there, or gather by a function of your own whose
#     backward pass sums a contiguous copy.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat > gather.py <<'PYTHON'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.nn.functional import all_gather

ROWS = torch.arange(12.0).reshape(4, 3)  # two of each process
WEIGHTS = torch.arange(12.0).reshape(3, 4) ** 2


def gradient(rank, transposed):
    """The gradient of this process's rows in a sum that each of the two processes computes over all rows."""
    own = ROWS[2 * rank : 2 * rank + 2].clone().requires_grad_()
    everyone = torch.cat(all_gather(own))
    if transposed:
        loss = (everyone.T * WEIGHTS).sum()
    else:
        loss = (everyone * WEIGHTS.T.contiguous()).sum()
    loss.backward()
    return own.grad


def work(rank, results):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
    for transposed in (False, True):
        results[rank, transposed] = gradient(rank, transposed).tolist()
    dist.destroy_process_group()


if __name__ == "__main__":
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(work, args=(results,), nprocs=2)
        wanted = 2 * WEIGHTS.T  # both processes compute the same sum
        right = {}
        for rank in (0, 1):
            for transposed in (False, True):
                got = torch.tensor(results[rank, transposed])
                right[rank, transposed] = torch.equal(got, wanted[2 * rank : 2 * rank + 2])
                print(f"process {rank}, gradient transposed {transposed}: right {right[rank, transposed]}, {got.tolist()}")
    if not (right[0, False] and right[1, False]) or (right[0, True] and right[1, True]):
        sys.exit("This has changed.")
PYTHON
venv/bin/python -W ignore gather.py "$folder/meeting"
