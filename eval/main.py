"""The `evals` command (`eval` is a shell word). What needs torch imports it when it is called."""

from curate.records.command import add_command, new_app
from eval import compare, countdown, mathematics, power, report, traces

app = new_app("evals", "What models can do and what they do, and whether conditions differ.")
add_command(app, countdown.CountdownSettings, countdown.run, name="countdown")
add_command(app, mathematics.MathSettings, mathematics.run, name="math")
add_command(app, traces.TracesSettings, traces.run, name="traces")
add_command(app, compare.CompareSettings, compare.run, name="compare")
add_command(app, report.ReportSettings, report.run, name="report")
add_command(app, power.PowerSettings, power.run, name="power")


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
