"""The `rl` command. Stages that need torch are imported when they are called, so that `--help` stays quick."""

from curate.records.command import add_command, new_app
from rl import tasks

app = new_app("rl", "Countdown: tasks, PPO, export to verl.")
add_command(app, tasks.TasksSettings, tasks.run, name="tasks")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
