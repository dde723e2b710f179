"""Documents a second on one core, Parquet in to Parquet out, and whether memory grows with their number.

Documents of 5,500 characters are put together from those of the bundled sample (or of a corpus) and written to Parquet. `curate classify
--engine student` then labels N and 4 N of them in processes of their own, on one core. The peer is a bare scikit-learn pipeline in
the same run: the same Parquet, HashingVectorizer of words and pairs on the same windows, six logistic regressions, scores written back. It
has no sentences, no cues, no evidence. Goal: at least 200 documents a second. ratio = ours / peer.

    python bench/student_speed.py [--documents 1000] [--corpus FILE_OR_FOLDER]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.corpus import find_files
from curate.reading import read_rows

CHARS = 5500
# Prints the seconds from the start of the work and the peak memory of the process, in MiB.
TIMED = """
import resource, sys, time
started = time.perf_counter(); used = time.process_time()
try:
    {work}
except SystemExit as end:
    if end.code:
        raise
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("TIMED", time.perf_counter() - started, time.process_time() - used, peak)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(Path(options.peer[0]), Path(options.peer[1]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = (
            write_corpus(folder / f"{count}.parquet", count, options.corpus) for count in (options.documents, 4 * options.documents)
        )
        rows = {
            "ours": timed(f"sys.argv[1:] = {arguments(small, folder / 'a')!r}; from pipelines.main import main; main()"),
            "ours, four times the documents": timed(
                f"sys.argv[1:] = {arguments(large, folder / 'b')!r}; from pipelines.main import main; main()"
            ),
            "peer": timed(
                f"sys.argv[1:] = ['--peer', {str(small)!r}, {str(folder / 'peer.parquet')!r}]; import bench.student_speed as b; b.main()"
            ),
        }
    counts = {"ours": options.documents, "ours, four times the documents": 4 * options.documents, "peer": options.documents}
    speed = {what: counts[what] / seconds for what, (seconds, _, _) in rows.items()}
    for what, (seconds, cpu, peak) in rows.items():
        print(f"{what}: {speed[what]:.0f} documents/s ({counts[what] / cpu:.0f} a CPU second), {seconds:.1f} s, peak {peak:.0f} MiB")
    # The start (imports, weights) is in all of them; the difference of the two runs is the labelling alone.
    (one, one_cpu, _), (four, four_cpu, _) = rows["ours"], rows["ours, four times the documents"]
    steady = {
        "documents_per_second": 3 * options.documents / (four - one),
        "documents_per_cpu_second": 3 * options.documents / (four_cpu - one_cpu),
    }
    found = {
        "documents": options.documents,
        "documents_per_second": speed,
        "documents_per_cpu_second": {what: counts[what] / cpu for what, (_, cpu, _) in rows.items()},
        "without_start": steady,
        "peak_mib": {what: peak for what, (_, _, peak) in rows.items()},
    }
    print(json.dumps(found))
    print(f"ratio: {speed['ours'] / speed['peer']:.3f}")


def write_corpus(path: Path, count: int, corpus: str) -> Path:
    texts = []
    for file in find_files([corpus]).files:
        texts += [str(row.values.get("text") or "") for row in read_rows(file.root, file.path, [(0, file.rows)], ("text",))]
    everything = "\n\n".join(texts)
    step = 997
    documents = [
        (everything + everything)[start : start + CHARS] for start in ((number * step) % len(everything) for number in range(count))
    ]
    pq.write_table(pa.table({"id": [str(number) for number in range(count)], "text": documents}), path)
    return path


def arguments(corpus: Path, out: Path) -> list[str]:
    return ["classify", "--engine", "student", "--dataset", str(corpus), "--out", str(out)]


def timed(work: str) -> tuple[float, float, float]:
    """(seconds, CPU seconds, peak MiB) of Python code in a process of its own, on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})" + TIMED.format(work=work)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, cpu, peak = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("TIMED"))
    return float(seconds), float(cpu), float(peak)


def peer(corpus: Path, out: Path) -> None:
    """The bare pipeline: windows, hashed words and pairs, six linear models, largest score of each document."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    from curate.windows import split_windows

    vectorizer = HashingVectorizer(ngram_range=(1, 2), n_features=1 << 17, alternate_sign=False)
    table = pq.read_table(corpus)
    texts = table["text"].to_pylist()
    generator = np.random.default_rng(0)
    few = vectorizer.transform(texts[:64])
    models = [LogisticRegression(max_iter=5).fit(few, generator.permutation(64) < 32) for _ in range(6)]
    scores = []
    for start in range(0, len(texts), 64):
        batch = texts[start : start + 64]
        spans = [(number, low, high) for number, text in enumerate(batch) for low, high in split_windows(text, 2400)]
        features = vectorizer.transform([batch[number][low:high] for number, low, high in spans])
        probabilities = np.stack([model.predict_proba(features)[:, 1] for model in models], axis=1)
        best = np.zeros((len(batch), 6))
        np.maximum.at(best, [number for number, _, _ in spans], probabilities)
        scores.append(best)
    columns = {f"score{number}": np.concatenate(scores)[:, number] for number in range(6)}
    pq.write_table(pa.table({"id": table["id"], **columns}), out)


if __name__ == "__main__":
    main()
