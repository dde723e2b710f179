"""The Parquet columns of every table that passes between stages. A row's identity is (content hash of its file, row number)."""

from collections.abc import Sequence

import pyarrow as pa

IDENTITY = [
    pa.field("file_sha256", pa.string(), nullable=False),
    pa.field("source_file", pa.string(), nullable=False),
    pa.field("source_row", pa.int64(), nullable=False),
    pa.field("id", pa.string()),
    pa.field("source", pa.string()),
]
EVIDENCE = pa.list_(
    pa.struct(
        [pa.field("behavior", pa.string()), pa.field("start", pa.int64()), pa.field("end", pa.int64()), pa.field("score", pa.float32())]
    )
)


def labels(behaviors: Sequence[str], cascade: bool = False) -> pa.Schema:
    """One row a document: document scores are probabilities, `<b>_count` and `unsupported` are null outside `rationale`, `error` is
    null when fine. `unsupported` names the behaviors that the judge saw without quoting words that stand in the document. `cascade`
    (only of that engine) says who labelled the document, whether it is in the uniform sample, and what the student gave."""
    return pa.schema(
        [
            *IDENTITY,
            pa.field("url", pa.string()),
            pa.field("license", pa.string()),
            pa.field("text_sha256", pa.string()),
            pa.field("num_chars", pa.int64()),
            pa.field("num_tokens", pa.int64()),
            pa.field("num_windows", pa.int32()),
            *[pa.field(f"{name}_score", pa.float32()) for name in behaviors],
            *[pa.field(f"{name}_count", pa.int32()) for name in behaviors],
            pa.field("evidence", EVIDENCE),
            pa.field("unsupported", pa.list_(pa.string())),
            pa.field("label_mass", pa.float32()),
            pa.field("problem_score", pa.float32()),
            pa.field("solution_score", pa.float32()),
            pa.field("notation_density", pa.float32()),
            pa.field("error", pa.string()),
            *([pa.field("cascade", cascade_type(behaviors))] if cascade else []),
        ]
    )


def cascade_type(behaviors: Sequence[str]) -> pa.DataType:
    """`judge` is student or llm, `audit` membership of the uniform sample, `student` the student's scores."""
    scores = pa.struct([pa.field(name, pa.float32()) for name in behaviors])
    return pa.struct([pa.field("judge", pa.string()), pa.field("audit", pa.bool_()), pa.field("student", scores)])


def candidates(behaviors: Sequence[str]) -> pa.Schema:
    """Labels of the chosen documents with what they are matched on, and the cell they were chosen for."""
    return pa.schema(
        [
            *labels(behaviors),
            pa.field("topic", pa.string()),
            pa.field("difficulty", pa.float32()),
            pa.field("weight", pa.float64()),
            pa.field("cell", pa.string()),
            # The behaviors that the document's version with behavior should show: those that it shows itself, or that are to be injected.
            pa.field("carries", pa.list_(pa.string())),
        ]
    )


def annotations(behaviors: Sequence[str]) -> pa.Schema:
    """One row an annotator and item of an audit: what they saw (null: unsure), and how many documents the item stands for."""
    return pa.schema(
        [
            *IDENTITY,
            *[pa.field(name, pa.int64()) for name in ("start", "end")],
            pa.field("item", pa.string(), nullable=False),
            pa.field("annotator", pa.string(), nullable=False),
            *[pa.field(name, pa.bool_()) for name in behaviors],
            pa.field("seconds", pa.float64()),
            pa.field("evidence_shown", pa.bool_()),
            pa.field("stratum", pa.string()),
            pa.field("weight", pa.float64()),
            pa.field("text_sha256", pa.string()),
            pa.field("num_chars", pa.int64()),
        ]
    )


QA = pa.schema(
    [
        *IDENTITY,
        pa.field("url", pa.string()),
        pa.field("license", pa.string()),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("thoughts", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("target", pa.list_(pa.string())),  # the behaviors that this rewrite should show, and no others
        pa.field("num_tokens", pa.int64()),
        pa.field("prompt_hash", pa.string()),
        pa.field("model", pa.string()),
        pa.field("revision", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("error", pa.string()),
    ]
)


def behaviors_in(schema: pa.Schema) -> list[str]:
    """The behaviors that a label table was made with, from its columns, in order."""
    return [
        name.removesuffix("_count")
        for name in schema.names
        if name.endswith("_count") and f"{name.removesuffix('_count')}_score" in schema.names
    ]
