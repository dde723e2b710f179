"""Peak memory of the loss at a vocabulary of 128k and 16k tokens: ours against whole logits, each in a process of its own.

    python bench/loss_memory.py [--tokens 16384] [--hidden 3072] [--vocabulary 128256] [--threads 2] [--whole-tokens 2048]

Counted: resident memory at its highest during forward and backward, less what was resident before (hidden states and weight) and less
the weight's gradient. `--target-share` gives only some tokens a target (the others cost no time, but hold their memory): the peak is the
same, since a chunk is what is held, and the arithmetic is that much less. Whole logits are measured at `--whole-tokens`, since 16k of
them take 8.4 GB three times over, and scaled up. The ratio is the limit of 1.5 GB over what was measured: above 1 is within it.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import threading
import time

LIMIT_GB = 1.5


def resident_bytes() -> int:
    """Resident memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(kind: str, num_tokens: int, target_share: float, hidden: int, vocabulary: int, dtype: str, threads: int) -> dict[str, float]:
    """Gigabytes beyond inputs and the weight's gradient, and seconds, of one forward and backward."""
    import torch
    import torch.nn.functional as F

    from train.losses import chunked_cross_entropy

    torch.set_num_threads(threads)
    ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: freed blocks go back to the system, so the peak is honest
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(num_tokens, hidden, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, hidden, generator=generator) * 0.02).requires_grad_()
    labels = torch.randint(0, vocabulary, (num_tokens,), generator=generator)
    labels[int(num_tokens * target_share) :] = -100
    tiny = torch.zeros(8, hidden, requires_grad=True)
    chunked_cross_entropy(tiny, torch.zeros(16, hidden, requires_grad=True), torch.zeros(8, dtype=torch.long)).backward()  # warm up
    before, peak, running = resident_bytes(), [0], [True]

    def watch() -> None:
        while running[0]:
            peak[0] = max(peak[0], resident_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        if kind == "chunked":
            loss = chunked_cross_entropy(states, weight, labels)
        else:
            loss = F.cross_entropy(F.linear(states, weight).float(), labels, reduction="sum")
    (loss / num_tokens).backward()
    seconds = time.perf_counter() - began
    running[0] = False
    watcher.join()
    gradient = weight.numel() * 4
    return {"gb": (peak[0] - before - gradient) / 1e9, "seconds": seconds, "loss": loss.item() / num_tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--whole-tokens", type=int, default=2_048)
    parser.add_argument("--target-share", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=3_072)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--one", nargs=2, metavar=("KIND", "DTYPE"), help="measure one case in this process")
    options = parser.parse_args()
    if options.one:
        kind, dtype = options.one
        print(json.dumps(measure(kind, options.tokens, options.target_share, options.hidden, options.vocabulary, dtype, options.threads)))
        return

    def run(kind: str, dtype: str, num_tokens: int) -> dict[str, float]:
        command = [sys.executable, __file__, "--one", kind, dtype, "--tokens", str(num_tokens), "--hidden", str(options.hidden)]
        command += ["--vocabulary", str(options.vocabulary), "--threads", str(options.threads)]
        command += ["--target-share", str(options.target_share if kind == "chunked" else 1.0)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    parts: dict[str, object] = {
        "tokens": options.tokens,
        "target_share": options.target_share,
        "hidden": options.hidden,
        "vocabulary": options.vocabulary,
    }
    worst = 0.0
    for dtype in options.dtype:
        ours = run("chunked", dtype, options.tokens)
        worst = max(worst, ours["gb"])
        parts[f"chunked {dtype}"] = {key: round(value, 3) for key, value in ours.items()}
        print(dtype, parts[f"chunked {dtype}"], flush=True)
    whole = run("whole", options.dtype[0], options.whole_tokens)
    parts[f"whole logits {options.dtype[0]} at {options.whole_tokens} tokens"] = {key: round(value, 3) for key, value in whole.items()}
    parts["whole logits, scaled up, gb"] = round(whole["gb"] * options.tokens / options.whole_tokens, 1)
    print(json.dumps(parts))
    print(f"ratio: {LIMIT_GB / worst:.3f}")


if __name__ == "__main__":
    main()
