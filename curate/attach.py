"""Fetches the text of chosen rows from the corpus they were labelled in, and refuses a corpus that is not the same."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.reading import BadFile, read_rows
from curate.records.errors import UserError
from curate.records.manifest import InputFile


class AttachText(PipelineStep):
    """Gives each Document the text of its row's identity, one chunk at a time, so that a file is read once a chunk.

    `files` are the inputs of the labelling, by which (hash, row) is found again.
    """

    type = "READER"
    name = "source text"

    def __init__(self, files: Sequence[InputFile], text_key: str) -> None:
        super().__init__()
        self.files = {file.sha256: file for file in files}
        self.text_key = text_key

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for _, group in groupby(data, key=lambda document: document.metadata["chunk"]):
            everything = list(group)
            documents = [document for document in everything if document.metadata["error"] is None]  # the others have no use for a text
            wanted = [(document.metadata["row"]["file_sha256"], document.metadata["row"]["source_row"]) for document in documents]
            rows = fetch_rows(self.files, wanted, (self.text_key, "question", "answer"))
            for document, identity in zip(documents, wanted, strict=True):
                values = rows[identity]
                text = values.get(self.text_key)
                if not isinstance(text, str):
                    raise UserError(
                        f"row {identity[1]} of {self.files[identity[0]].path} has no text in column {self.text_key!r}: set --text-key"
                    )
                document.text = text
                document.metadata["source_row_values"] = values
            yield from everything


def fetch_rows(
    files: dict[str, InputFile], wanted: Sequence[tuple[str, int]], columns: Sequence[str] | None = None
) -> dict[tuple[str, int], dict[str, Any]]:
    """The stored values of rows named by (hash of file, row number); of Parquet files only `columns`, where they are given.

    Raises UserError when a row's file is not among `files`, is gone, or has changed in length.
    """
    by_file: dict[str, set[int]] = defaultdict(set)
    for digest, number in wanted:
        by_file[digest].add(number)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for digest, numbers in by_file.items():
        file = files.get(digest)
        if file is None:
            raise UserError(
                f"the labels name a file with hash {digest[:16]}… that the corpus does not have: labels and corpus do not belong together"
            )
        try:
            for row in read_rows(file.root, file.path, [(number, number + 1) for number in sorted(numbers)], columns):
                found[digest, row.number] = row.values
        except (BadFile, OSError) as error:
            raise UserError(f"cannot read {file.root}/{file.path} again: {error}") from None
        if any((digest, number) not in found for number in numbers):
            raise UserError(f"{file.root}/{file.path} has fewer rows than when it was labelled: labels and corpus do not belong together")
    return found
