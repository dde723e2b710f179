"""`curate plan`, and what every stage with an engine says and asks before it starts."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from datatrove.data import Document

from curate.classification import Classify, ClassifySettings, Labelling
from curate.consent import agree, leaves_machine
from curate.corpus import find_files
from curate.engines.models import EMBEDDED, has_gpu
from curate.engines.settings import EngineSettings, make_engine
from curate.planning import (
    LABEL_BYTES_A_DOCUMENT,
    SELECTED_SHARE,
    PlanSettings,
    Range,
    Rate,
    StagePlan,
    Workload,
    labelling_work,
    measured_rate,
    rewriting_work,
    table_rate,
)
from curate.reading import BadFile, document_error, read_rows
from curate.records.errors import EngineError, UserError
from curate.records.manifest import read_manifest
from curate.records.parts import write_json
from curate.windows import default_window_chars
from pipelines.ledger import Chunk, Ledger, make_chunks

SAMPLE_DOCUMENTS, SAMPLE_DOCUMENTS_ON_HUB = 1024, 64  # lengths have heavy tails; local rows cost next to nothing
MOST_CHUNKS, MOST_CHUNKS_ON_HUB = 64, 4  # that documents are drawn from: on the hub each costs a row group


def plan(settings: PlanSettings) -> list[StagePlan]:
    """Say what a labelling will take before anything is spent: documents, tokens, requests, hours, money, disk. Labels nothing.

    Volumes come from a few documents drawn at random. Time needs a rate: --rate, --rate-from an earlier run, --calibrate (the engine is
    started and timed on N documents; nothing is written), else the table of rates in the project, whose entries name their source.
    What is already done in --out is left out. --selected-share plans rewriting and verifying too.
    """
    if sum(bool(known) for known in (settings.rate, settings.rate_from, settings.calibrate)) > 1:
        raise UserError("--rate, --rate-from and --calibrate each say how fast it goes: give one of them")
    chunks = missing_chunks(settings)
    if not chunks:
        print("nothing is left to do")
        return []
    labelling = settings.labelling()
    texts = draw_texts(chunks, settings, settings.calibrate)
    work = labelling_work(texts, sum(chunk.num_rows for chunk in chunks), settings, labelling)
    rate = known_rate(settings, work, texts, labelling)
    plans = [stage_plan("classify", work, settings, rate)]
    if settings.selected_share is not None:
        plans += later_plans(settings, settings, texts, work.documents, settings.selected_share, rate)
    for item in plans:
        print("\n".join(item.lines()))
    if settings.json_file is not None:
        write_json(settings.json_file, [asdict(item) for item in plans])
    return plans


def missing_chunks(settings: ClassifySettings) -> list[Chunk]:
    """What a labelling with these settings would still have to do."""
    found = find_files(settings.dataset, settings.dataset_revision)
    chunks = make_chunks(found.files, settings.chunk_rows, settings.limit, settings.sample, settings.seed)
    return chunks if settings.out is None else Ledger(settings.out, "classify", {}, chunks).missing()


def draw_texts(chunks: Sequence[Chunk], settings: ClassifySettings, at_least: int = 0) -> list[str]:
    """Texts of documents drawn at random: a like share of every chunk, or, where there are many, of a few drawn in proportion to their
    rows. Unusable rows are empty texts, as they cost nothing."""
    rng = np.random.default_rng(settings.seed)
    sizes = np.array([chunk.num_rows for chunk in chunks], dtype=np.float64)
    on_hub = chunks[0].file.root.startswith("hf://")
    most = MOST_CHUNKS_ON_HUB if on_hub else MOST_CHUNKS
    number = max(SAMPLE_DOCUMENTS_ON_HUB if on_hub else SAMPLE_DOCUMENTS, at_least)
    if len(chunks) <= most:
        drawn = {index: min(math.ceil(number * size / sizes.sum()), int(size)) for index, size in enumerate(sizes)}
    else:
        picks = rng.choice(len(chunks), size=most, p=sizes / sizes.sum())
        drawn = {int(index): min(int(count) * -(-number // most), int(sizes[index])) for index, count in Counter(picks.tolist()).items()}
    texts = []
    for index, count in sorted(drawn.items()):
        chunk = chunks[index]
        candidates = np.arange(chunk.start, chunk.end) if chunk.rows is None else np.asarray(chunk.rows)
        rows = sorted(rng.choice(candidates, count, replace=False).tolist())
        try:
            for row in read_rows(chunk.file.root, chunk.file.path, [(number, number + 1) for number in rows], (settings.text_key,)):
                bad = row.error or document_error(row.values, settings.text_key, settings.max_chars)
                texts.append("" if bad else row.values[settings.text_key])
        except (BadFile, OSError):
            continue  # the stage itself will name the file
    return texts


def known_rate(settings: PlanSettings, work: Workload, texts: Sequence[str], labelling: Labelling) -> Rate | None:
    """The rate that the settings give, in the order of how much it can be trusted."""
    if settings.rate is not None:
        return Rate(f"--rate {settings.rate:g} documents a second", documents=Range(*[settings.rate] * 3))
    if settings.rate_from is not None:
        return rate_of(settings.rate_from, settings)
    if settings.calibrate:
        usable = [text for text in texts if text]
        return calibrate(settings, random.Random(settings.seed).sample(usable, min(settings.calibrate, len(usable))), labelling)
    return default_rate(settings)


def default_rate(settings: EngineSettings) -> Rate | None:
    """From the table of rates. For an endpoint there is none: only its owner knows."""
    if settings.engine == "openai":
        return None
    if settings.engine == "vllm" and settings.model == EMBEDDED:
        device = "cpu"
    else:
        device = "gpu" if settings.engine == "vllm" and (has_gpu() or getattr(settings, "executor", "local") == "slurm") else "cpu"
    return table_rate(settings.engine, settings.model, settings.quantization, device)


def rate_of(folder: Path, settings: ClassifySettings) -> Rate:
    """The rate of a finished labelling: its characters over its seconds, less the start of its engine. Raises UserError when it was
    made by another engine, model or mode."""
    import polars as pl

    manifest = read_manifest(folder)
    asked = settings.resolved()
    for key in ("engine", "model", "mode", "preset", "quantization", "window_chars"):
        was, now = manifest.settings.get(key), getattr(asked, key)
        if manifest.stage != "classify" or (was != now and not (key == "model" and settings.engine == "student")):
            raise UserError(f"{folder} was made by `{manifest.stage}` with {key} {was!r}, not {now!r}: its rate says nothing about this")
    characters = sum(int(pl.read_parquet(path, columns=["num_chars"])["num_chars"].sum()) for path in (folder / "parts").glob("*.parquet"))
    if not characters or manifest.seconds <= 0:
        raise UserError(f"{folder} labelled nothing: it has no rate")
    pace = characters / manifest.seconds
    return Rate(f"the run in {folder}, its start included", characters=Range(pace / 1.25, pace, pace * 1.25))


def calibrate(settings: ClassifySettings, texts: Sequence[str], labelling: Labelling) -> Rate:
    """Start the engine, warm it on one document, and time it on the others; nothing is written."""
    if len(texts) < 2:
        raise UserError("too few documents to calibrate on")
    if settings.engine == "cascade":
        raise UserError("a cascade works at two paces: time --engine student and --engine vllm on their own, or give --rate")
    if leaves_machine(settings):
        agree(f"{len(texts)} documents are sent to {settings.base_url} to time it", settings.yes)

    def documents(some: Sequence[str]) -> Iterator[Document]:
        for number, text in enumerate(some):
            yield Document(text=text, id=f"{number}", metadata={"row": {}, "error": None})

    started = time.monotonic()
    with _labeller(settings, labelling) as label:
        warm = time.monotonic()
        for document in label(documents(texts[:1])):
            _refuse_errors(document)
        ready = time.monotonic()
        ends, lengths = [], []
        for document in label(documents(texts[1:])):
            _refuse_errors(document)
            ends.append(time.monotonic() - ready)
            lengths.append(len(document.text))
    return measured_rate(ends, lengths, warm - started, f"timing {len(ends)} documents just now")


@contextmanager
def _labeller(settings: ClassifySettings, labelling: Labelling) -> Iterator[Callable[[Iterator[Document]], Iterator[Document]]]:
    """What labels a stream of documents, loaded."""
    if settings.engine == "student":
        from curate.student.labelling import make_labeller

        yield make_labeller(settings, labelling).label
        return
    step = Classify(settings, labelling)
    with make_engine(settings) as engine:
        yield lambda some: step.label(some, engine, labelling.method(engine.info.calibrated))


def _refuse_errors(document: Document) -> None:
    if error := document.metadata["rows"][0]["error"]:
        raise EngineError(f"the engine cannot label a document, so it cannot be timed: {error}")


def stage_plan(stage: str, work: Workload, settings: EngineSettings, rate: Rate | None) -> StagePlan:
    """Time on the engines that run side by side, GPU-hours, money and disk of a stage."""
    engines = engines_beside(settings)
    result = StagePlan(stage, work, engines=engines, source=rate.source if rate else "")
    if rate is not None:
        alone = rate.seconds(work)
        fixed = Range(*[rate.startup_seconds] * 3)
        result.seconds = Range(*[(value - start) / engines + start for value, start in zip(asdict(alone).values(), asdict(fixed).values())])
        if settings.engine == "vllm" and settings.model != EMBEDDED:
            result.gpu_hours = result.seconds * (engines * settings.tensor_parallel_size / 3600)
    if settings.engine == "openai" and (settings.price_in or settings.price_out):
        if settings.max_dollars is not None:
            result.notes.append(f"stops at --max-dollars {settings.max_dollars:g}; finished chunks are kept")
        result.dollars = work.prompt_tokens * (settings.price_in / 1e6) + work.answer_tokens * (settings.price_out / 1e6)
    if settings.engine == "cascade":
        result.notes.append("at most: what the student rules out is not sent to the language model")
    if stage != "rewrite":
        result.disk_bytes = Range(*LABEL_BYTES_A_DOCUMENT) * work.documents
    else:
        result.disk_bytes = work.answer_tokens * 2.0
    return result


def engines_beside(settings: EngineSettings) -> int:
    """Tasks that really work side by side: on a CPU every vLLM takes all cores, so more of them gain nothing."""
    import os

    tasks, executor = getattr(settings, "tasks", 1), getattr(settings, "executor", "local")
    if executor != "local" or settings.engine == "openai":
        return tasks
    if settings.engine == "vllm":
        return tasks if settings.model != EMBEDDED and has_gpu() else 1
    return min(tasks, os.cpu_count() or 1)


def later_plans(
    rewrite: EngineSettings, verify: EngineSettings, texts: Sequence[str], documents: int, share: float, rate: Rate | None = None
) -> list[StagePlan]:
    """Rewriting and verifying of an assumed share of the documents, each twice (`pairs`). `rate` stands for both, else the table's."""
    chosen, usable = round(documents * share), [text for text in texts if text]
    rewriting = rewriting_work([len(text) for text in usable], chosen)
    verifying = labelling_work(usable, 2 * chosen, verify, Labelling(default_window_chars(verify.engine)))
    plans = []
    for stage, work, settings in (("rewrite", rewriting, rewrite), ("verify", verifying, verify)):
        known = rate or default_rate(settings)
        fits = known is not None and (known.new_tokens or (known.characters and stage == "verify"))  # labelling says nothing of rewriting
        plans.append(stage_plan(stage, work, settings, known if fits else None))
    plans[0].notes.append(f"for {share:.0%} of the documents: an assumption until they are labelled")
    return plans


def before_labelling(stage: str, settings: ClassifySettings, chunks: Sequence[Chunk], labelling: Labelling) -> None:
    """Print the plan of what is missing and ask where it must be asked; returns when the stage may start."""
    if chunks:
        texts = draw_texts(chunks, settings)
        work = labelling_work(texts, sum(chunk.num_rows for chunk in chunks), settings, labelling)
        say_and_ask([(stage_plan(stage, work, settings, default_rate(settings)), settings)], settings)


def before_rewriting(stage: str, settings: EngineSettings, documents: int) -> None:
    """Ask before rows that are known, and already chosen, are sent away."""
    if documents and leaves_machine(settings):
        agree(f"{stage}: {documents:,} documents are sent to {settings.base_url}", settings.yes)


def before_run(classify: ClassifySettings, rewrite: EngineSettings, verify: EngineSettings) -> bool:
    """Print the plan of a whole run and ask once for all of it; whether there was something to plan (else later stages ask)."""
    chunks = missing_chunks(classify)
    if not chunks:
        return False
    texts = draw_texts(chunks, classify)
    documents = sum(chunk.num_rows for chunk in chunks)
    work = labelling_work(texts, documents, classify, classify.labelling())
    plans = [stage_plan("classify", work, classify, default_rate(classify))]
    by = [classify, rewrite, verify]
    if rewrite.engine != "extract":
        plans += later_plans(rewrite, verify, texts, documents, SELECTED_SHARE)
    say_and_ask(list(zip(plans, by, strict=False)), classify)
    return True


def say_and_ask(plans: Sequence[tuple[StagePlan, EngineSettings]], settings: EngineSettings) -> None:
    """Print plans; ask once when texts leave the machine, or when time or money is above its threshold."""
    for item, _ in plans:
        print("\n".join(item.lines()), flush=True)
    away = [f"{item.work.documents:,} documents ({item.stage}) are sent to {own.base_url}" for item, own in plans if leaves_machine(own)]
    reasons = [", ".join(away)] if away else []
    dollars = sum(_spent(item, own) for item, own in plans)
    if dollars > settings.ask_above_dollars:
        reasons.append(f"about ${dollars:,.2f} are spent (more than --ask-above-dollars {settings.ask_above_dollars:g})")
    hours = sum((item.gpu_hours.likely if item.gpu_hours else item.seconds.likely / 3600) for item, _ in plans if item.seconds)
    if hours > settings.ask_above_hours:
        unit = "GPU-hours" if any(item.gpu_hours for item, _ in plans) else "hours"
        reasons.append(f"about {hours:,.0f} {unit} are taken (more than --ask-above-hours {settings.ask_above_hours:g})")
    if reasons:
        agree(" and ".join(reasons), settings.yes)


def _spent(item: StagePlan, settings: EngineSettings) -> float:
    """Dollars that a stage is likely to cost: not more than its budget, at which it stops."""
    likely = item.dollars.likely if item.dollars else 0.0
    return likely if settings.max_dollars is None else min(likely, settings.max_dollars)
