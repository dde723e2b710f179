"""From a mathematics corpus to two matched sets. The functions do what the commands of the same names do.

from curate import ClassifySettings, classify
"""

from typing import Any

# Loaded on first use, so that importing a part of the base does not import datatrove, polars or an engine. The functions live in
# pipelines/, which stands above this package; this table is the one place where it is named here.
_PUBLIC = {
    "classify": ("pipelines.classify", "curate.classification", "ClassifySettings"),
    "plan": ("pipelines.plan", "curate.planning", "PlanSettings"),
    "frequencies": ("pipelines.frequencies", "curate.prevalence", "FrequenciesSettings"),
    "audit": ("pipelines.audit", "curate.auditing.settings", "AuditSettings"),
    "topics": ("pipelines.topics", "curate.topic_clusters", "TopicsSettings"),
    "select": ("pipelines.select", "curate.selection", "SelectSettings"),
    "rewrite": ("pipelines.rewrite", "curate.rewriting", "RewriteSettings"),
    "verify": ("pipelines.verify", "curate.verification", "VerifySettings"),
    "match": ("pipelines.match", "curate.matching", "MatchSettings"),
    "report": ("pipelines.report", "curate.reporting", "ReportSettings"),
    "run": ("pipelines.run", "pipelines.run", "RunSettings"),
}
__all__ = [*_PUBLIC, *(settings for _, _, settings in _PUBLIC.values())]


def __getattr__(name: str) -> Any:
    import importlib

    for function, (module, settings_module, settings) in _PUBLIC.items():
        if name == function:
            return getattr(importlib.import_module(module), function)
        if name == settings:
            return getattr(importlib.import_module(settings_module), settings)
    raise AttributeError(f"module 'curate' has no attribute {name!r}")
