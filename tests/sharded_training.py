"""Run the module of a command under Accelerate's FSDP on CPUs, which Accelerate leaves out: it takes DDP there."""

import importlib
import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

take_accelerators = AcceleratorState.__init__


def take_cpus(self, *args, fsdp_plugin=None, **kwargs):
    take_accelerators(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


if __name__ == "__main__":
    AcceleratorState.__init__ = take_cpus
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
