"""Print the folder of the tasks, for `lmms-eval --include_path`."""

from . import TASKS

print(TASKS)
