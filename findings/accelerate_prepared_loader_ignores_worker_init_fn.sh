#!/usr/bin/env bash
# A worker_init_fn assigned to a prepared DataLoader is never called.
#
# Packages: accelerate 1.15.0, torch 2.13.0.
# Expected: `loader.worker_init_fn = f` is called in each worker, as that of a plain DataLoader is.
# Seen: the prepared loader takes the attribute, reads it back, and does not hand it to the loader that starts workers.
# Why it matters: seeds and files that it should set up are not, and nothing is raised.
# How to live with it: give `worker_init_fn` to the DataLoader before `prepare`, or set it on `base_dataloader`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 accelerate==1.15.0

venv/bin/python - <<'PYTHON'
import sys

from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Marked(Dataset):
    """Two items that are 1 where the worker was set up, 0 elsewhere."""

    mark = 0

    def __len__(self):
        return 2

    def __getitem__(self, place):
        return self.mark


def set_up(worker):
    get_worker_info().dataset.mark = 1


plain = DataLoader(Marked(), num_workers=1)
plain.worker_init_fn = set_up
prepared = Accelerator(cpu=True).prepare(DataLoader(Marked(), num_workers=1))
prepared.worker_init_fn = set_up
by_plain = [int(item) for item in plain]
by_prepared = [int(item) for item in prepared]
print(f"plain: {by_plain}, prepared: {by_prepared}, attribute kept: {prepared.worker_init_fn is set_up}")
if by_plain != [1, 1] or by_prepared != [0, 0]:
    sys.exit("This has changed.")
PYTHON
