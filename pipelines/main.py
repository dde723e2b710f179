"""The `curate` command: a command is a pipeline. Heavy imports wait until a command runs."""

import importlib
import importlib.metadata
from typing import Annotated

import typer

from curate.adoption import AdoptSettings
from curate.auditing.settings import AuditSettings
from curate.calibration import CalibrateSettings
from curate.card import PublishSettings
from curate.classification import ClassifySettings
from curate.comparison import CompareSettings
from curate.matching import MatchSettings
from curate.planning import PlanSettings
from curate.prevalence import FrequenciesSettings
from curate.records.command import add_command, new_app
from curate.reporting import ReportSettings
from curate.rewriting import RewriteSettings
from curate.selection import SelectSettings
from curate.sensitivity import SensitivitySettings
from curate.student.settings import DistillSettings
from curate.topic_clusters import TopicsSettings
from curate.verification import VerifySettings
from pipelines.run import RunSettings
from pipelines.status import DatasetsSettings, DoctorSettings, StatusSettings

# Settings and the module of the command, whose function has the command's name.
COMMANDS: dict[str, tuple[type, str]] = {
    "datasets": (DatasetsSettings, "pipelines.status"),
    "plan": (PlanSettings, "pipelines.plan"),
    "classify": (ClassifySettings, "pipelines.classify"),
    "frequencies": (FrequenciesSettings, "pipelines.frequencies"),
    "sensitivity": (SensitivitySettings, "pipelines.sensitivity"),
    "calibrate": (CalibrateSettings, "pipelines.calibrate"),
    "compare": (CompareSettings, "pipelines.compare"),
    "audit": (AuditSettings, "pipelines.audit"),
    "topics": (TopicsSettings, "pipelines.topics"),
    "select": (SelectSettings, "pipelines.select"),
    "rewrite": (RewriteSettings, "pipelines.rewrite"),
    "adopt": (AdoptSettings, "pipelines.adopt"),
    "verify": (VerifySettings, "pipelines.verify"),
    "match": (MatchSettings, "pipelines.match"),
    "publish": (PublishSettings, "pipelines.publish"),
    "report": (ReportSettings, "pipelines.report"),
    "distill": (DistillSettings, "pipelines.distill"),
    "status": (StatusSettings, "pipelines.status"),
    "run": (RunSettings, "pipelines.run"),
    "doctor": (DoctorSettings, "pipelines.status"),
}
POSITIONAL = {"status": "out", "report": "run", "adopt": "table", "publish": "sets", "audit": "action"}
app = new_app("curate", "From a mathematics corpus to two matched sets of text: one shows the four habits, the other does not.")
for _name, (_settings, _module) in COMMANDS.items():
    add_command(app, _settings, getattr(importlib.import_module(_module), _name), name=_name, positional=POSITIONAL.get(_name))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fourhabits {importlib.metadata.version('fourhabits')}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """From a mathematics corpus to two matched sets of text: one shows the four habits, the other does not."""


def main() -> None:
    """Console entry point."""
    app()
