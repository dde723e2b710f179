"""Run by test_fsdp2 under torchrun: two processes, the loop sharded by FSDP2 on the CPU.

accelerate turns FSDP into DDP on a CPU, so its state is set by hand before `prepare`.
"""

import sys

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

import train.loop as loop

make = loop.make_accelerator


def sharded(settings) -> Accelerator:
    accelerator = make(settings)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        cpu_ram_efficient_loading=False,
    )
    return accelerator


loop.make_accelerator = sharded
if __name__ == "__main__":
    from train.main import app

    build = loop.Run.build

    def checked(self) -> None:
        build(self)
        assert any(hasattr(p, "device_mesh") for p in self.model.parameters()), "nothing was sharded"

    loop.Run.build = checked
    app(sys.argv[1:])
