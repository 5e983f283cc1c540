"""Scaling laws: fits of data made from a known law, and what runs are refused."""

import dataclasses

import numpy as np
import pytest

from bigmodels.evaluation import scaling, scaling_runs
from bigmodels.evaluation.scaling_runs import SizedRun

COMPUTE = np.geomspace(1e12, 1e14, 6)


def losses_at(compute, noise=0.0, seed=0):
    """A known law: E = 2, exponent 0.25, a term of 2 at 1e12."""
    exact = 2 + 2 * (1e12 / np.asarray(compute)) ** 0.25
    return exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(compute)))


def test_the_known_law_is_recovered():
    law = scaling.fit(losses_at(COMPUTE[:4]), compute=COMPUTE[:4])
    assert law.irreducible == pytest.approx(2, rel=1e-3)
    assert law.exponents["compute"] == pytest.approx(0.25, rel=1e-3)
    assert law.scales["compute"] == pytest.approx(1e12 * 2**4, rel=1e-2)
    assert law.predict(compute=1e15) == pytest.approx(losses_at([1e15])[0], rel=1e-4)
    assert law.deviation < 1e-6 and law.formula.startswith("loss = 2.000 + (1.6e+13 / compute)^")


def test_the_exponent_is_recovered_from_noisy_runs_whatever_the_unit_of_compute():
    compute = np.geomspace(1e12, 1e15, 12)
    losses = losses_at(compute, noise=0.003)
    law = scaling.fit(losses, compute=compute)
    assert law.exponents["compute"] == pytest.approx(0.25, abs=0.05)
    assert law.deviation == pytest.approx(0.003, rel=0.5)
    scaled = scaling.fit(losses, compute=compute / 1e15)
    assert scaled.exponents["compute"] == pytest.approx(law.exponents["compute"], rel=1e-4)


def test_an_irreducible_loss_of_zero_counts_as_no_unknown():
    law = scaling.fit([4.0, 3.5, 3.0, 2.5], compute=[1, 2, 4, 8])  # Falls ever faster.
    assert law.irreducible == pytest.approx(0, abs=1e-5) and law._freedom == 2


def test_the_interval_holds_the_next_run_about_as_often_as_it_says():
    compute, target, held = np.geomspace(1e12, 2e13, 6), 6e13, 0
    for seed in range(100):
        losses = losses_at([*compute, target], noise=0.005, seed=seed)
        low, high = scaling.fit(losses[:-1], compute=compute).interval(compute=target)
        held += low < losses[-1] < high
    assert 88 <= held <= 100


def test_the_law_of_parameters_and_tokens():
    n, d = (grid.ravel() for grid in np.meshgrid([1e5, 4e5, 16e5], [1e6, 4e6, 16e6]))
    losses = 1.5 + (2e4 / n) ** 0.4 + (1e6 / d) ** 0.3
    law = scaling.fit(losses, parameters=n, tokens=d)
    assert law.exponents == {
        "parameters": pytest.approx(0.4, rel=1e-2),
        "tokens": pytest.approx(0.3, rel=1e-2),
    }
    expected = 1.5 + (2e4 / 6e6) ** 0.4 + (1e6 / 6e7) ** 0.3
    assert law.predict(parameters=6e6, tokens=6e7) == pytest.approx(expected, rel=1e-3)


def test_a_size_more_than_ten_times_outside_is_told():
    law = scaling.fit(losses_at(COMPUTE), compute=COMPUTE)
    assert law.beyond(compute=9e14) == law.beyond(compute=2e11) == {}
    assert law.beyond(compute=2e15) == {"compute": pytest.approx(20)}
    assert law.beyond(compute=5e10) == {"compute": pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("losses", "sizes", "message"),
    [
        ([3, 2, 1], {"compute": [1, 2, 3]}, "runs: 3 of different compute, expected 4 or more"),
        ([4, 3, 2, 1], {"compute": [1, 2, 3, 3]}, "runs: 3 of different compute"),
        ([1, 2, 3, 4], {"compute": [1, 2, 3, 4]}, "losses: they do not fall as compute grows"),
        ([4, 3, 2, 1], {"compute": [0, 2, 3, 4]}, "compute: .*expected positive numbers"),
        ([4, 3, 2, np.nan], {"compute": [1, 2, 3, 4]}, "losses: .*expected positive numbers"),
        ([4, 3, 2, 1], {"compute": [1, 2, 3]}, r"compute: shape \(3,\), expected 4 numbers"),
        ([4, 3, 2, 1], {}, "sizes: none given"),
        (
            [6, 5, 4, 3, 2, 1],
            {"parameters": [1, 2, 3, 4, 5, 6], "tokens": [2, 4, 6, 8, 10, 12]},
            "parameters and tokens: they grow together; fit over compute",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(losses, sizes, message):
    with pytest.raises(ValueError, match=message):
        scaling.fit(losses, **sizes)


def test_a_missing_quantity_is_refused():
    law = scaling.fit(losses_at(COMPUTE), compute=COMPUTE)
    with pytest.raises(ValueError, match=r"sizes: \['tokens'\] given, expected \['compute'\]"):
        law.predict(tokens=1)


SETTINGS = {"dataset": "text:a", "model.kind": "transformer", "data.tokens": "bytes"}
SETTINGS |= {"data.cache_dir": None, "model.num_layers": 2}


def sized(compute, loss, **more):
    result = {"validation": {"loss": loss, "bits_per_byte": 0.4 * loss}}
    name = f"runs/{compute:.0e}"
    return SizedRun(name, "text_generation", SETTINGS, {"compute": compute}, result | more)


@pytest.fixture
def runs():
    return [sized(c, loss) for c, loss in zip(COMPUTE, losses_at(COMPUTE), strict=True)]


def test_loss_and_bits_per_byte_of_a_planned_run(runs):
    planned = SizedRun(
        "this run",
        "text_generation",
        # Neither the size nor the cache is another text.
        SETTINGS | {"data.cache_dir": "elsewhere", "model.num_layers": 9},
        {"compute": 3e14, "parameters": 1, "tokens": 1},
    )
    found = scaling_runs.prediction(runs, planned)
    assert found["predicted_loss"] == pytest.approx(losses_at([3e14])[0], rel=1e-3)
    assert found["predicted_bits_per_byte"] == pytest.approx(0.4 * found["predicted_loss"])
    low, high = found["predicted_bits_per_byte_interval"]
    assert low < found["predicted_bits_per_byte"] < high
    assert "compute)^0.25" in found["scaling_law"] and "extrapolation" not in found
    far = dataclasses.replace(planned, sizes={"compute": 2e15})
    told = scaling_runs.prediction(runs, far)["extrapolation"]
    assert told == "far outside the runs: 20 times the compute of the largest"


def test_six_runs_whose_parameters_and_tokens_vary_are_fitted_over_both():
    runs = []
    for n in (1e5, 4e5, 16e5):
        for d in (1e6, 4e6, 16e6):
            run = sized(6 * n * d, 1.5 + (2e4 / n) ** 0.4 + (1e6 / d) ** 0.3)
            sizes = {"compute": 6 * n * d, "parameters": n, "tokens": d}
            runs.append(dataclasses.replace(run, sizes=sizes))
    assert scaling_runs.law_of(runs).exponents.keys() == {"parameters", "tokens"}
    assert scaling_runs.law_of(runs[::4] + runs[1:2]).exponents.keys() == {"compute"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"result": {}}, "runs/1e[+]12 is not finished"),
        ({"sizes": {}}, "runs/1e[+]12 has no training_flops in its result.json"),
        ({"task": "translation"}, "has task: 'translation', but runs/3e[+]12 'text_generation'"),
        ({"settings": SETTINGS | {"dataset": "text:b"}}, "has dataset: 'text:b', but"),
        ({"settings": SETTINGS | {"data.tokens": "subwords"}}, "has data.tokens: 'subwords'"),
        ({"settings": SETTINGS | {"model.kind": "rnn"}}, "has model.kind: 'rnn'"),
    ],
)
def test_a_run_that_does_not_fit_is_named(runs, changes, message):
    other = dataclasses.replace(runs[0], **changes)
    with pytest.raises(ValueError, match=message):
        scaling_runs.law_of([*runs[1:], other])


def test_the_sizes_of_a_finished_run():
    result = {"training_flops": 6e9, "parameters": 10, "throughput": 5.0, "seconds": 4.0}
    run = scaling_runs.finished("a", "text_generation", SETTINGS, result)
    assert run.sizes == {"compute": 6e9, "parameters": 10, "tokens": 20}
    short = scaling_runs.finished("a", "text_generation", SETTINGS, {"training_flops": None})
    assert short.sizes == {} and short.result
