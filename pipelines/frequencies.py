"""`curate frequencies` as a command: labels in, a table of prevalences out."""

import time

import pyarrow as pa

from curate.prevalence import FrequenciesSettings
from curate.prevalence import frequencies as estimate
from curate.records import schemas
from curate.records.command import require
from curate.records.manifest import Manifest
from pipelines.stage import read_table, write_table


def frequencies(settings: FrequenciesSettings) -> Manifest:
    """How often each behavior occurs: the share of documents above a threshold and the mean probability, with 95 % intervals.

    The numbers are the judge's; without gold labels nothing corrects its errors, and the table says so.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    labels, files = read_table(require(settings.labels, "labels", "the output of `curate classify`"), "classify")
    behaviors = schemas.behaviors_in(labels.to_arrow().schema)
    rows = estimate(labels, behaviors, settings.threshold)
    for row in rows:
        interval = f"[{row['low']:.4f}, {row['high']:.4f}]"
        print(f"{row['behavior']:20} {row['estimate']:6} {row['value'] or 0:.4f}  {interval} of {row['documents']} documents")
    print("not corrected for the judge's errors: no gold labels were given")
    table = pa.Table.from_pylist(rows)
    return write_table(
        out, "frequencies", settings, table, files, labels.height, {"summarised": labels.height}, started, rows_made=len(rows)
    )
