"""`train cpt`."""

from train.settings import CptSettings


def run(settings: CptSettings) -> None:
    """Continue pretraining on sets of `prompt` and `completion` (or plain `text`).

    Several GPUs: `accelerate launch --num_processes 4 -m train.main cpt …` (DDP), with `--use_fsdp --fsdp_version 2` sharded.
    Goes on from the newest checkpoint in --out. `train plan` says what a run will need.
    """
    from train.loop import train

    train("cpt", settings)
