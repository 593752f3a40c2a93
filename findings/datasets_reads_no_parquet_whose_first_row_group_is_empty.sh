#!/usr/bin/env bash
# A valid parquet file whose first row group holds no rows cannot be loaded, though pyarrow reads it.
#
# Package: datasets 5.2.0 with pyarrow 26.0.1; datasets 4.2.0 with pyarrow 21.0.0 does the same.
# Expected: the rows of the other row groups.
# Seen: DatasetGenerationError, caused by "BatchSize must be greater than 0": the size of a batch is taken from the
#   first row group.
# Why it matters: the message speaks of a batch size that nobody has set, and the file looks whole to pyarrow.
# How to live with it: pass `batch_size` to `load_dataset("parquet", ...)`, or leave empty tables out when writing.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet datasets==5.2.0 pyarrow==26.0.1

HF_HUB_OFFLINE=1 HF_HOME="$folder/home" venv/bin/python - <<'PYTHON'
import sys

import pyarrow
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import parquet

rows = pyarrow.table({"number": [1, 2, 3]})
with parquet.ParquetWriter("rows.parquet", rows.schema) as writer:
    writer.write_table(rows.slice(0, 0))
    writer.write_table(rows)
print("pyarrow reads", parquet.read_table("rows.parquet")["number"].to_pylist())

try:
    loaded = load_dataset("parquet", data_files="rows.parquet", split="train")
except DatasetGenerationError as error:
    print("datasets:", repr(error.__cause__))
else:
    sys.exit(f"This has changed: datasets reads {loaded['number'][:]}.")
sized = load_dataset("parquet", data_files="rows.parquet", split="train", batch_size=100)
print("with batch_size=100 datasets reads", sized["number"][:])
if sized["number"][:] != [1, 2, 3]:
    sys.exit("This has changed.")
PYTHON
