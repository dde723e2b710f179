"""The `rl` command. Stages that need torch import it when they are called, so that `--help` stays quick."""

from curate.records.command import add_command, new_app
from rl import arithmetic, export_verl, pairs, prime, settings, tasks, warmstart

app = new_app("rl", "Countdown: tasks, warm start, PPO, export to verl.")
add_command(app, tasks.TasksSettings, tasks.run, name="tasks")
add_command(app, warmstart.WarmstartSettings, warmstart.run, name="warmstart")
add_command(app, arithmetic.ArithmeticSettings, arithmetic.run, name="arithmetic")
add_command(app, prime.PrimeSettings, prime.run, name="prime")
add_command(app, pairs.PairsSettings, pairs.run, name="pairs")


def run_ppo(given: settings.PPOSettings) -> None:
    """Train a policy on Countdown with PPO (or grpo, rloo, reinforce), evaluating, logging and saving as it goes."""
    from rl import ppo

    ppo.run(given)


add_command(app, settings.PPOSettings, run_ppo, name="ppo")
add_command(app, export_verl.ExportSettings, export_verl.run, name="export-verl")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
