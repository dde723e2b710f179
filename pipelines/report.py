"""`curate report` as a command."""

from curate.report import ReportSettings


def report(settings: ReportSettings) -> None:
    """Draw a run on one self-contained HTML page: prevalence, examples with their evidence, rows, the two sets side by side."""
    raise NotImplementedError
