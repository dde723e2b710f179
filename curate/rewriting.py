"""`curate rewrite`: documents become question / thoughts / answer, in the cells that the arms need.

One document is one job: a generator that yields requests and is sent their answers, so that a chain of requests (frame, preserve,
strip, retry) reads top to bottom while the engine interleaves hundreds of them.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.behaviors import Behavior, load_behaviors
from curate.engines.base import Engine, EngineInfo, GenerateRequest, Generation, Prompt
from curate.engines.settings import EngineSettings, make_engine
from curate.parsing import num_words, parse_tags, within
from curate.records.errors import UserError
from curate.records.manifest import json_sha256
from curate.records.settings import option
from curate.rewrite_prompts import frame_prompt, paper_prompt, rewriting_hash, thoughts_prompt

ARMS = ("pairs", "2x2", "paper")
# How a document's two versions are told: as it is, and changed. Cell of the selection -> (cell, kind of rewriting) twice.
VERSIONS = {
    "selected": (("selected", "preserve"), ("selected_stripped", "strip")),
    "free": (("free", "preserve"), ("free_injected", "inject")),
}
PAPER_CELLS = {"selected": ("paper_enriched", "paper-enriched"), "free": ("paper_control", "paper-control")}
# Cells whose rewrites should show the behaviors that their document carries; those of all others should show none.
CARRYING_CELLS = ("selected", "free_injected", "paper_enriched")
REPAIR_TEMPERATURE = 0.7
SHORTEST_WORDS = 40
TOKENS_PER_WORD = 3  # mathematics is dense in tokens; only a limit, never a target
FRAME_TOKENS = 512
Job = Generator[GenerateRequest, Generation, list[dict[str, Any]]]


@dataclass(frozen=True)
class RewriteSettings(EngineSettings):
    """What is rewritten, and into which cells."""

    engine: str = option(
        "vllm", "Engine: vllm, openai, or extract (human questions and answers as they are).", choices=("vllm", "openai", "extract")
    )
    candidates: Path | None = option(None, "Output folder of `curate select`.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    arms: str = option(
        "pairs",
        "pairs: each selected document twice, preserve and strip; 2x2: each free one too, preserve and inject; paper: the published pair.",
        choices=ARMS,
    )
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")
    temperature: float = option(0.0, "Sampling temperature of first attempts; repairs use at least 0.7.", at_least=0)
    frequency_penalty: float = option(0.0, "Above 0 keeps small models from going round in circles.")
    max_words: int = option(700, "Longest thoughts that are asked for; a shorter passage asks for its own length.", at_least=40)
    length_tolerance: float = option(
        0.10, "How far `strip` and `inject` may be from their sibling's length, as a share; beyond it one retry.", at_least=0
    )
    limit: int | None = option(None, "Rewrite only the first N candidates.", at_least=1)
    max_passage_chars: int = option(12_000, "Longer documents become rows with an error: a rewrite must not rest on a part of its source.")
    chunk_rows: int = option(64, "Candidates per chunk: the unit that is done or not done.", at_least=1)
    executor: str = option("local", "Where tasks run.", choices=("local", "slurm"), hashed=False)
    tasks: int = option(1, "Tasks that share the work; each drives one engine.", hashed=False, at_least=1)
    slurm: tuple[str, ...] = option((), "Slurm settings as name=value.", hashed=False)


def check_arms(settings: RewriteSettings) -> None:
    """Raise UserError when the engine cannot make these arms."""
    if settings.engine == "extract" and settings.arms != "paper":
        raise UserError(f"the engine extract rewrites nothing, so it cannot make {settings.arms}; use it with --arms paper")


@dataclass(frozen=True)
class Wanted:
    """`habits`: the behaviors that the arms are about; `carries`: those that this document's version with behavior should show."""

    habits: tuple[str, ...]
    carries: tuple[str, ...]


@dataclass
class Asked:
    """The requests of one job: counts them, parses the answers, repairs once."""

    key: str
    settings: RewriteSettings
    outcomes: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)
    number: int = 0

    def ask(
        self, prompt: Prompt, tags: Sequence[str], max_tokens: int, accept: Callable[[dict[str, str]], str | None] = lambda fields: None
    ) -> Generator[GenerateRequest, Generation, tuple[dict[str, str] | None, str | None, int]]:
        """Ask until the answer parses and `accept` finds no fault, at most twice. Returns (fields, problem, attempts).

        Fields that parse but are not accepted are returned with the problem, for the caller to judge.
        """
        problem: str | None = None
        fields: dict[str, str] | None = None
        for attempt in (1, 2):
            self.number += 1
            temperature = self.settings.temperature if attempt == 1 else max(self.settings.temperature, REPAIR_TEMPERATURE)
            answer = yield GenerateRequest(
                (self.key, self.number),
                prompt,
                max_tokens,
                temperature,
                self.settings.seed + self.number,
                stop=(f"</{tags[-1]}>",),
                frequency_penalty=self.settings.frequency_penalty,
            )
            self.usage.update(
                requests=1,
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                completion_tokens=answer.completion_tokens,
            )
            if answer.error:
                return None, answer.error, attempt
            parsed = parse_tags(answer.text, tags, answer.truncated)
            problem = parsed.problem
            if problem is None:
                fields = parsed.fields
                problem = accept(fields)
            self.outcomes[f"attempt_{attempt}_{(problem or 'good').split(' (')[0].replace(' ', '_')}"] += 1
            if problem is None:
                return fields, None, attempt
        return fields, problem, 2


def pair_job(asked: Asked, passage: str, behaviors: Sequence[Behavior], wanted: Wanted, cell: str = "selected") -> Job:
    """The same problem, answer and mathematics twice, at the same length: as the passage shows it, and changed (VERSIONS).

    `cell` is the document's own: a selected one is changed by telling it straight, a free one by working behaviors in.
    """
    (kept_cell, kept_kind), (changed_cell, changed_kind) = VERSIONS[cell]
    fields: dict[str, str] = {}
    for tag in ("question", "answer"):
        found, problem, attempts = yield from asked.ask(frame_prompt(tag, passage, fields.get("question", "")), (tag,), FRAME_TOKENS)
        if found is None:
            return [_cell(name, fields, f"{tag}: {problem}", attempts) for name in (kept_cell, changed_cell)]
        fields |= found
    question, answer = fields["question"], fields["answer"]
    words = min(max(num_words(passage), SHORTEST_WORDS), asked.settings.max_words)
    prompt = thoughts_prompt(kept_kind, passage, question, answer, words, behaviors, wanted.habits)
    kept, problem, attempts = yield from asked.ask(prompt, ("thoughts",), TOKENS_PER_WORD * words + 64)
    if kept is None:
        return [_cell(name, fields, f"{kept_kind}: {problem}", attempts) for name in (kept_cell, changed_cell)]
    rows = [_cell(kept_cell, fields | kept, None, attempts)]
    target = num_words(kept["thoughts"])

    def length_problem(fields: dict[str, str]) -> str | None:
        found = num_words(fields["thoughts"])
        return None if within(found, target, asked.settings.length_tolerance) else f"length outside ({found} words for {target})"

    prompt = thoughts_prompt(changed_kind, passage, question, answer, target, behaviors, wanted.carries)
    changed, problem, attempts = yield from asked.ask(prompt, ("thoughts",), TOKENS_PER_WORD * target + 64, length_problem)
    error = f"{changed_kind}: {problem}" if changed is None else None  # a length outside is no error: `match` drops and counts the pair
    return [*rows, _cell(changed_cell, fields | (changed or {}), error, attempts)]


def paper_job(asked: Asked, passage: str, kind: str) -> Job:
    """One request for question, thoughts and answer together, as the published sets were made."""
    words = min(num_words(passage), 3 * asked.settings.max_words)
    fields, problem, attempts = yield from asked.ask(
        paper_prompt(kind, passage), ("question", "thoughts", "answer"), TOKENS_PER_WORD * words + 512
    )
    return [_cell(kind.replace("-", "_"), fields or {}, None if fields else f"{kind}: {problem}", attempts)]


class Rewrite(PipelineStep):
    """Runs the jobs of candidates as they stream by. Needs `AttachText` before it."""

    type = "REWRITE"
    name = "cells"

    def __init__(self, settings: RewriteSettings, habits: Sequence[str]) -> None:
        super().__init__()
        self.settings, self.habits = settings, tuple(habits)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        behaviors = load_behaviors(self.settings.behaviors)
        documents = iter(data)
        first = next(documents, None)
        if first is None:
            return
        if self.settings.engine == "extract":
            for document in (item for group in ([first], documents) for item in group):
                yield extracted(document)
            return
        with make_engine(self.settings) as engine:
            yield from self.rewrite((item for group in ([first], documents) for item in group), engine, behaviors)

    def rewrite(self, documents: Iterator[Document], engine: Engine, behaviors: Sequence[Behavior]) -> Iterator[Document]:
        """Documents with `metadata["rows"]` = the rows of their cells, in the order in which they finish."""
        prompt_hash = rewriting_hash(behaviors, self.habits)
        asked: dict[str, tuple[Document, Asked]] = {}
        ready: deque[Document] = deque()

        def jobs() -> Iterator[tuple[str, Job]]:
            for document in documents:
                problem = self._problem(document)
                if problem is None and (job_of := self._job(document)) is not None:
                    item = Asked(document.id, self.settings)
                    asked[document.id] = (document, item)
                    wanted = Wanted(self.habits, tuple(document.metadata["row"].get("carries") or ()))
                    yield document.id, job_of(item, document.text, behaviors, wanted)
                elif problem is not None:
                    rows = [_cell(cell, {}, problem, 0) for cell in self._cells(document)]
                    ready.append(_finish(document, rows, prompt_hash, engine.info))
                else:
                    document.metadata |= {"rows": [], "dropped": {"not wanted by these arms": 1}}
                    ready.append(document)

        for key, rows in run_jobs(jobs(), engine):
            document, item = asked.pop(key)
            yield _finish(document, rows, prompt_hash, engine.info, item)
            while ready:
                yield ready.popleft()
        yield from ready

    def _problem(self, document: Document) -> str | None:
        if document.metadata["error"]:
            return document.metadata["error"]
        limit = self.settings.max_passage_chars
        return f"{len(document.text)} characters, more than --max-passage-chars {limit}" if len(document.text) > limit else None

    def _job(self, document: Document) -> Callable[..., Job] | None:
        cell = document.metadata["row"]["cell"]
        if not self._cells(document):
            return None
        if self.settings.arms == "paper":
            return lambda item, passage, behaviors, wanted: paper_job(item, passage, PAPER_CELLS[cell][1])
        return lambda item, passage, behaviors, wanted: pair_job(item, passage, behaviors, wanted, cell)

    def _cells(self, document: Document) -> list[str]:
        """The cells that these arms make of a document; none for a free one in pairs."""
        cell = document.metadata["row"]["cell"]
        if self.settings.arms == "paper":
            return [PAPER_CELLS[cell][0]]
        return [name for name, _ in VERSIONS[cell]] if self.settings.arms == "2x2" or cell == "selected" else []


def run_jobs(jobs: Iterator[tuple[str, Job]], engine: Engine) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run generator jobs on an engine, many at a time; yield (key, result) as each ends. A job's next request goes before new jobs."""
    waiting: deque[GenerateRequest] = deque()
    active: dict[str, Job] = {}
    ended: deque[tuple[str, list[dict[str, Any]]]] = deque()

    def advance(key: str, job: Job, answer: Generation | None) -> None:
        try:
            waiting.append(job.send(answer))  # type: ignore[arg-type]
            active[key] = job
        except StopIteration as end:
            active.pop(key, None)
            ended.append((key, end.value))

    class Requests(Iterator[GenerateRequest]):
        def __next__(self) -> GenerateRequest:
            while not waiting:
                key, job = next(jobs)
                advance(key, job, None)
            return waiting.popleft()

    for answer in engine.generate(Requests()):
        key = answer.key[0]  # type: ignore[index]
        advance(key, active[key], answer)
        while ended:
            yield ended.popleft()
    yield from ended


QUESTION_MARK = re.compile(r"\A\s*(?:Q|Question|Problem|Exercise)\s*:\s*", re.IGNORECASE)
ANSWER_MARK = re.compile(r"^\s*(?:A|Answer|Solution|Proof)\s*:\s*", re.IGNORECASE | re.MULTILINE)
FINAL_MARK = re.compile(r"^\s*(?:####|Final answer\s*:)\s*(.+)\Z", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def split_question_answer(row: dict[str, Any], text: str) -> tuple[dict[str, str] | None, str | None]:
    """Question, thoughts and answer of a document that already is a question and an answer; nothing is rewritten or left out.

    Uses columns `question` and `answer` where the corpus has them, else the marks `Q:`/`A:`, `Problem:`/`Solution:` in the text. The
    final answer is what follows `####` or `Final answer:`, else the last paragraph, else the last sentence.
    """
    question, solution = row.get("question"), row.get("answer")
    if not (isinstance(question, str) and isinstance(solution, str)):
        mark = ANSWER_MARK.search(text)
        if not QUESTION_MARK.match(text) or mark is None:
            return None, "not a question and an answer: no columns `question`, `answer`, no marks `Q:`, `A:`"
        question, solution = QUESTION_MARK.sub("", text[: mark.start()]), text[mark.end() :]
    final = FINAL_MARK.search(solution)
    if final:
        thoughts, answer = solution[: final.start()], final[1]
    else:
        boundary = max(solution.rstrip().rfind("\n\n"), solution.rstrip().rfind("\n"))
        if boundary < 0:
            boundary = max((match.end() for match in re.finditer(r"[.!?]\s+", solution.rstrip())), default=-1)
        thoughts, answer = (solution[:boundary], solution[boundary:]) if boundary > 0 else ("", solution)
    fields = {"question": question.strip(), "thoughts": thoughts.strip(), "answer": answer.strip()}
    empty = [name for name, value in fields.items() if not value]
    return (None, f"empty {empty[0]}") if empty else (fields, None)


def extracted(document: Document) -> Document:
    """A document whose row is its own question and answer, in the cell it was chosen for."""
    problem = document.metadata["error"]
    fields = None
    if problem is None:
        fields, problem = split_question_answer(document.metadata.get("source_row_values", {}), document.text)
    rows = [_cell(document.metadata["row"]["cell"], fields or {}, problem, 0)]
    return _finish(document, rows, None, EngineInfo("extract", "none", None))


def _cell(cell: str, fields: dict[str, str], error: str | None, attempts: int) -> dict[str, Any]:
    return {"cell": cell, **fields, "error": error, "attempts": attempts}


def _finish(
    document: Document, rows: list[dict[str, Any]], prompt_hash: str | None, info: EngineInfo, asked: Asked | None = None
) -> Document:
    source = document.metadata["row"]
    identity = {key: source.get(key) for key in ("file_sha256", "source_file", "source_row", "id", "source", "url", "license")}
    pair_id = json_sha256([source.get("file_sha256"), source.get("source_row")])[:16]
    about = {"pair_id": pair_id, "prompt_hash": prompt_hash, "model": info.model, "revision": info.revision}
    usage = dict(asked.usage) if asked else {}
    outcomes = {f"outcome_{name}": count for name, count in asked.outcomes.items()} if asked else {}
    carries = list(source.get("carries") or [])
    rows = [{**identity, **about, "target": carries if row["cell"] in CARRYING_CELLS else [], **row} for row in rows]
    document.metadata |= {"rows": rows, "made": len(rows) - 1, "usage": usage | outcomes}
    return document
