"""How many seeds an effect needs, by the test that is really made."""

import numpy as np
import pytest

from curate.records.errors import UserError
from eval import power, statistics
from tests.eval.experiments import write_experiment


def test_power_speaks_in_seeds(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45}, seeds=4)
    power.run(power.PowerSettings(experiment=tmp_path, contrast="all:linear"))
    assert "can support no claim; 6 are the least" in capsys.readouterr().out
    power.run(power.PowerSettings(spread=0.05, effect=("0.05",)))
    assert "11 paired seeds" in capsys.readouterr().out
    with pytest.raises(UserError, match="not above 0"):
        power.run(power.PowerSettings(spread=0.05, effect=("0",)))
    with pytest.raises(UserError, match="not above --alpha"):
        power.run(power.PowerSettings(spread=0.05, power=0.05))


def test_the_least_number_of_seeds_hangs_on_the_level(tmp_path, capsys):
    assert [statistics.pairs_needed(0.05, tests) for tests in (1, 2, 3, 4, 6, 7)] == [6, 7, 7, 8, 8, 9]
    assert [statistics.pairs_needed(alpha) for alpha in (0.1, 0.01, 0.001)] == [5, 8, 11]
    assert [statistics.seeds_needed(1.0, 0.01, alpha=alpha) for alpha in (0.1, 0.05, 0.01)] == [5, 6, 8]
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45}, seeds=6)
    power.run(power.PowerSettings(experiment=tmp_path, contrast="all:linear", alpha=0.01))
    assert "the 6 seeds so far can support no claim; 8 are the least at 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "pairs", "alpha"), [(1.43, 6, 0.05), (1.0, 8, 0.05), (1.5, 8, 0.01), (1.6, 5, 0.1)])
def test_power_is_what_a_simulation_of_the_real_test_finds(size, pairs, alpha):
    generator = np.random.default_rng(1)
    found = np.mean([statistics.paired(generator.normal(size, 1, pairs)).p < alpha for _ in range(500)])
    assert statistics.sign_flip_power(size, pairs, alpha) == pytest.approx(found, abs=0.06)  # three standard errors


def test_the_t_test_does_not_stand_in_for_the_sign_flip_test_where_pairs_are_few():
    assert statistics.t_power(1.4345, 6) == pytest.approx(0.8, abs=0.001)
    assert statistics.sign_flip_power(1.4345, 6) == pytest.approx(0.635, abs=0.02)
    assert statistics.sign_flip_power(100, 5) == 0  # five pairs show nothing, however large the effect
    assert statistics.seeds_needed(1.4345, 1.0) == 7
    assert statistics.effect_found(6, 1.0) > 1.7


def test_effect_and_seeds_are_each_others_inverse():
    for pairs in (7, 9, 24):
        effect = statistics.effect_found(pairs, 0.05)
        assert statistics.seeds_needed(effect * 1.02, 0.05) == pairs
        assert statistics.seeds_needed(effect * 0.9, 0.05) > pairs


@pytest.mark.parametrize("effect", [5.0, 50.0, 5e6])
def test_a_large_effect_needs_no_more_than_the_least(effect):
    assert statistics.t_power(effect / 0.01, 20) == 1.0  # where the noncentral t of scipy is NaN
    assert statistics.seeds_needed(effect, 0.01) == statistics.MIN_SEEDS
