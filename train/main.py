"""The `train` command."""

from curate.records.command import add_command, new_app
from train import cpt, plan, sft
from train.settings import CptSettings, SftSettings

app = new_app("train", "Continued pretraining and fine-tuning: packed, resumable, on one GPU, many, or a CPU.")
add_command(app, CptSettings, cpt.run, name="cpt")
add_command(app, SftSettings, sft.run, name="sft")
add_command(app, plan.PlanSettings, plan.run, name="plan")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
