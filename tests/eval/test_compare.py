"""What may be claimed of an experiment, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from curate.records.errors import UserError
from eval import compare
from tests.eval.experiments import write_experiment, write_run


def settings(folder: Path, **changes) -> compare.CompareSettings:
    return compare.CompareSettings(**({"experiment": folder, "out": folder / "comparison", "contrast": ("all:linear",)} | changes))


def outcome(folder: Path) -> dict:
    return json.loads((folder / "comparison" / compare.SUMMARY).read_text())


def end(found: dict, kind: str, a: str, b: str) -> dict:
    return next(row for row in found["contrasts"] if (row["kind"], row["a"], row["b"], row["measure"]) == (kind, a, b, "end"))


def test_paired_seeds_show_what_unpaired_ones_would_hide(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45, "incorrect-all": 0.5})
    compare.run(settings(tmp_path, contrast=("all:linear", "incorrect-all:linear"), equivalent=("incorrect-all:all",)))
    found = outcome(tmp_path)
    primary = end(found, "difference", "all", "linear")
    assert primary["claim"] and primary["p"] == pytest.approx(2 / 64) and 0 < primary["low"] < primary["high"] < 0.1
    assert end(found, "equivalence", "incorrect-all", "all")["claim"]
    assert not end(found, "difference", "incorrect-all", "linear")["primary"]
    text = capsys.readouterr().out
    assert "a difference (primary)" in text and "equivalent" in text
    assert found["conditions"]["all"]["start"] == pytest.approx(0.1)


def test_the_endpoint_is_the_mean_of_the_last_evaluations_not_the_best(tmp_path):
    for name, top in (("a", 0.9), ("b", 0.2)):
        for seed in (0, 1):
            write_run(tmp_path / name / f"seed-{seed}", [0.1, top, 0.3, 0.3, 0.3 + 0.01 * seed])
    compare.run(settings(tmp_path, contrast=("a:b",)))
    assert end(outcome(tmp_path), "difference", "a", "b")["mean"] == pytest.approx(0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_too_few_seeds_make_no_claim_however_large_the_difference(tmp_path, capsys, seeds):
    write_experiment(tmp_path, {"all": 0.9, "linear": 0.2}, seeds=seeds)
    compare.run(settings(tmp_path, equivalent=("linear:all",)))
    assert not any(row["claim"] for row in outcome(tmp_path)["contrasts"])
    text = capsys.readouterr().out
    more = f"{6 - seeds} more seed{'s' if seeds < 5 else ''}"
    assert f"NO CLAIM: cannot be shown with {seeds} pairs" in text and f"needs 6, run {more}\n" in text
    assert f"NO CLAIM: a claim needs 6 pairs, run {more}\n" in text


def test_one_pair_is_reported_without_a_test(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.9, "linear": 0.2}, seeds=1)
    compare.run(settings(tmp_path))
    assert "1 paired seed; a difference needs two" in capsys.readouterr().out


def test_secondary_contrasts_are_corrected_together(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45, "empty": 0.44, "placeholder": 0.43})
    compare.run(settings(tmp_path, contrast=("all:linear", "all:empty", "all:placeholder")))
    rows = [end(outcome(tmp_path), "difference", "all", name) for name in ("linear", "empty", "placeholder")]
    assert rows[0]["p_holm"] is None and rows[0]["claim"]
    assert [row["p_holm"] for row in rows[1:]] == pytest.approx([4 / 64, 4 / 64]) and not rows[1]["claim"]
    assert rows[0]["pairs_needed"] == 6 and [row["pairs_needed"] for row in rows[1:]] == [7, 7]
    printed = capsys.readouterr().out
    assert printed.count("NO CLAIM: cannot be shown with 6 pairs, whose least p is 0.0625; needs 7, run 1 more seed\n") == 2


def test_a_contrast_that_could_have_been_shown_is_only_not_shown(tmp_path, capsys):
    for seed in range(8):
        ends = {"all": 0.4, "linear": 0.3, "empty": 0.2} | ({"same": 0.42 - 0.04 * (seed % 2)} if seed < 6 else {})
        for name, share in ends.items():
            write_run(tmp_path / name / f"seed-{seed}", [0.1, 0.2, 0.2, share + seed / 100])
    compare.run(settings(tmp_path, contrast=("all:linear", "all:empty", "same:all")))
    shown, not_shown = (end(outcome(tmp_path), "difference", *pair) for pair in (("all", "empty"), ("same", "all")))
    assert shown["claim"] and not not_shown["claim"]
    # Beside a p of 2/256 six pairs can reach 2/64, which Holm leaves as it is; by itself the number 7 holds whatever the other shows.
    assert not_shown["p_least"] == pytest.approx(2 / 64) and not_shown["pairs_needed"] == 7
    assert re.search(r"same - all: .*; not shown\n", capsys.readouterr().out)


def test_several_equivalences_are_corrected_together(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45, "near": 0.5, "nearer": 0.5}, spread=0.045)
    compare.run(settings(tmp_path, equivalent=("near:all",)))
    alone = end(outcome(tmp_path), "equivalence", "near", "all")
    assert alone["p_holm"] is None and alone["p_equivalence"] < 0.05 and alone["claim"]
    compare.run(settings(tmp_path, equivalent=("near:all", "nearer:all")))
    rows = [end(outcome(tmp_path), "equivalence", name, "all") for name in ("near", "nearer")]
    p_values = [row["p_equivalence"] for row in rows]
    assert [row["p_holm"] for row in rows] == pytest.approx(
        [min(1, 2 * min(p_values)) if p == min(p_values) else max(2 * min(p_values), p) for p in p_values]
    )
    assert [row["claim"] for row in rows] == [row["p_holm"] < 0.05 for row in rows]
    assert f"by Holm {rows[0]['p_holm']:.3g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": ("all:liner",)}, "did you mean 'linear'"),
        ({"contrast": ("all",)}, "is not A:B"),
        ({"contrast": ()}, "--contrast is needed"),
        ({"last_evaluations": 7}, "a start need more"),
    ],
)
def test_contrasts_are_checked(tmp_path, changes, message):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=2)
    with pytest.raises(UserError, match=message):
        compare.run(settings(tmp_path, **changes))


def test_gain_leaves_the_start_out(tmp_path, capsys):
    for seed in range(2):
        write_run(tmp_path / "high" / f"seed-{seed}", np.linspace(0.4, 0.5 + 0.01 * seed, 5))
        write_run(tmp_path / "low" / f"seed-{seed}", np.linspace(0.1, 0.2 + 0.01 * seed, 5))
    compare.run(settings(tmp_path, contrast=("high:low",), last_evaluations=1))
    rows = {row["measure"]: row for row in outcome(tmp_path)["contrasts"]}
    assert rows["end"]["mean"] == pytest.approx(0.3) and rows["gain"]["mean"] == pytest.approx(0)
    assert "gain from step 0: +0.000 [+0.000, +0.000], not tested" in capsys.readouterr().out.replace("-0.000", "+0.000")


def test_a_condition_is_held_against_its_own_start_without_a_claim(tmp_path, capsys):
    for seed, end in enumerate((0.30, 0.33, 0.36)):
        write_run(tmp_path / "random" / f"seed-{seed}", [0.3, 0.3, end], verification=[1, 2, 4])
        write_run(tmp_path / "other" / f"seed-{seed}", [0.3, 0.3, 0.3 + 0.01 * seed])
    compare.run(settings(tmp_path, contrast=("random:other",), last_evaluations=1))
    gain = outcome(tmp_path)["conditions"]["random"]["gain"]
    assert gain["per_seed"] == pytest.approx([0, 0.03, 0.06]) and gain["mean"] == pytest.approx(0.03) and "claim" not in gain
    half = 4.302652729911275 * 0.03 / 3**0.5  # t of two degrees of freedom
    assert (gain["low"], gain["high"]) == pytest.approx((0.03 - half, 0.03 + half)) and gain["p"] == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert "random: 0.300 -> 0.330 over 3 seeds, gain +0.030 [-0.045, +0.105], sign-flip p = 0.5;" in printed
    assert "no claim is made of it" in printed and "verification 1.00 -> 4.00 (x 4.00)" in printed
    assert "every condition: too few evaluations (9 needed)" in printed


def test_leads_are_told_by_condition_with_size_and_number_of_seeds(tmp_path, capsys):
    accuracy = [0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    for seed in range(3):
        early = [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3] if seed < 2 else [1] * 11
        write_run(tmp_path / "all" / f"seed-{seed}", [*accuracy, 0.4 + seed / 100], verification=[*early, early[-1]])
        write_run(tmp_path / "linear" / f"seed-{seed}", [0.1] * 11 + [0.1 + seed / 100])
    compare.run(settings(tmp_path))
    found = outcome(tmp_path)["conditions"]["all"]["behaviors"]["verification"]
    assert found["lead_in_evaluations"] == 2 and len(found["leads"]) == 2 and 0.95 < found["lead_correlation"] <= 1
    printed = capsys.readouterr().out
    assert "accuracy, all: verification 2 evaluations before, r = +1.00, in 2 (of 3 seeds" in printed
    assert "accuracy, linear: none of them (of 3 seeds" in printed
