"""Writes tests/golden/evaluation/statistics.json and pandalm.json: what other programs compute.

    pip install numpy scipy statsmodels krippendorff
    python3 scripts/make_statistics_goldens.py PANDALM.json tests/golden/evaluation

PANDALM.json is testset-v1.json of github.com/WeOpenML/PandaLM (Apache-2.0): 999 pairs with three labels each.
"""
import json
import os
import sys
from importlib.metadata import version

import krippendorff
import numpy
import scipy.stats
import statsmodels.api
from scipy.optimize import minimize
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa


def labels(source):
    """The pairs and labels alone: the texts are not needed."""
    rows = json.load(open(source))
    models = sorted({name for row in rows for name in row["cmp_key"].split("_")})
    index = {name: at for at, name in enumerate(models)}
    kept = [[*(index[name] for name in row["cmp_key"].split("_")), *(row[f"annotator{n}"] for n in (1, 2, 3))] for row in rows]
    return {"models": models, "rows": kept}


def agreement(random):
    """Krippendorff's alpha of random ratings with gaps."""
    cases = []
    for annotators, units, values, missing in [(3, 40, 5, 0.3), (5, 25, 3, 0.5), (2, 60, 7, 0.1), (4, 30, 2, 0.4)]:
        truth = random.integers(1, values + 1, units)
        ratings = numpy.where(random.random((annotators, units)) < 0.6, truth, random.integers(1, values + 1, (annotators, units)))
        ratings = ratings.astype(float)
        ratings[random.random(ratings.shape) < missing] = numpy.nan
        alpha = {level: krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
                 for level in ("nominal", "ordinal", "interval", "ratio")}
        table = [[None if numpy.isnan(value) else value for value in row] for row in ratings.T]
        cases.append({"units": table, "alpha": alpha})
    return cases


def fleiss(random):
    cases = []
    for units, annotators, categories in [(30, 3, 3), (12, 7, 4)]:
        ratings = random.integers(0, categories, (units, annotators))
        ratings[: units // 2] = ratings[: units // 2, :1]
        table, _ = aggregate_raters(ratings, n_cat=categories)
        cases.append({"table": table.tolist(), "kappa": fleiss_kappa(table)})
    return cases


def davidson(random, with_order):
    """Maximum likelihood of simulated comparisons, found by BFGS; without a ridge, theta with mean 0."""
    strengths = numpy.array([0.8, 0.1, -0.2, -0.7])
    pairs = []
    for first in range(4):
        for second in range(4):
            if first == second:
                continue
            logits = numpy.array([strengths[first] + 0.3, (strengths[first] + strengths[second]) / 2 - 0.5, strengths[second]])
            share = numpy.exp(logits) / numpy.exp(logits).sum()
            pairs.append([first, second, *random.multinomial(40, share).tolist()])

    def loss(point):
        theta, ln_nu, gamma = numpy.append(point[:3], -point[:3].sum()), point[3], point[4] if with_order else 0.0
        total = 0.0
        for first, second, wins, ties, losses in pairs:
            logits = numpy.array([theta[first] + gamma / 2, ln_nu + (theta[first] + theta[second]) / 2, theta[second] - gamma / 2])
            total -= numpy.array([wins, ties, losses]) @ (logits - numpy.logaddexp.reduce(logits))
        return total

    found = minimize(loss, numpy.zeros(5 if with_order else 4), method="BFGS", options={"gtol": 1e-7})
    theta = [*found.x[:3].tolist(), float(-found.x[:3].sum())]
    return {"pairs": pairs, "theta": theta, "ln_nu": found.x[3], "first_shown": found.x[4] if with_order else None,
            "negative_log_likelihood": found.fun}


def logistic(random):
    x = random.normal(size=(200, 2))
    y = (random.random(200) < 1 / (1 + numpy.exp(-(0.4 + 1.2 * x[:, 0] - 0.7 * x[:, 1])))).astype(float)
    return {"x": x.round(6).tolist(), "y": y.tolist(), **refit(x.round(6), y)}


def refit(x, y):
    fit = statsmodels.api.Logit(y, statsmodels.api.add_constant(x)).fit(disp=0, method="newton", tol=1e-12)
    return {"coefficients": fit.params.tolist(), "standard_errors": fit.bse.tolist(), "negative_log_likelihood": -fit.llf}


def length(random):
    """The rate at equal length, by a binomial GLM on tanh of the standardised difference."""
    difference = random.normal(40, 150, 250).round()
    outcome = (random.random(250) < 1 / (1 + numpy.exp(-(0.1 + difference / 150)))).astype(float)
    outcome[random.random(250) < 0.15] = 0.5
    covariate = numpy.tanh(difference / difference.std(ddof=1))
    model = statsmodels.api.GLM(outcome, statsmodels.api.add_constant(covariate), family=statsmodels.api.families.Binomial())
    fit = model.fit(tol=1e-12)
    return {"difference": difference.tolist(), "outcome": outcome.tolist(), "rate": 1 / (1 + numpy.exp(-fit.params[0]))}


def tests(random):
    sign = [[wins, losses, scipy.stats.binomtest(wins, wins + losses).pvalue] for wins, losses in [(7, 3), (12, 2), (60, 41), (0, 5), (4, 4)]]
    differences = random.integers(-3, 5, 12).astype(float)
    statistic = lambda sample, axis: numpy.abs(numpy.sum(sample, axis=axis))
    exact = scipy.stats.permutation_test((differences,), statistic, permutation_type="samples", n_resamples=numpy.inf,
                                         alternative="greater", vectorized=True)
    return {"sign": sign, "differences": differences.tolist(), "permutation": exact.pvalue}


def bootstrap(random):
    """Percentile intervals of a mean over clusters of unequal size."""
    size = random.integers(1, 5, 80).astype(float)
    total = random.normal(0.3, 1, 80) * size
    ratio = lambda total, size, axis: total.sum(axis) / size.sum(axis)
    found = scipy.stats.bootstrap((total, size), ratio, n_resamples=100_000, paired=True, method="percentile", vectorized=True,
                                  random_state=numpy.random.default_rng(0))
    return {"totals": total.tolist(), "sizes": size.tolist(), "interval": list(map(float, found.confidence_interval))}


def soft(random):
    preferences = random.random(60).round(3)
    preferences[:5] = 0.5
    return {"preferences": preferences.tolist(), "win_rate": preferences.mean(), "standard_error": scipy.stats.sem(preferences)}


def main():
    source, out = sys.argv[1:]
    random = numpy.random.default_rng(19)
    golden = {
        "versions": {name: version(name) for name in ("numpy", "scipy", "statsmodels", "krippendorff")},
        "alpha": agreement(random), "fleiss": fleiss(random),
        "davidson": [davidson(random, False), davidson(random, True)],
        "logistic": logistic(random), "length": length(random), "tests": tests(random), "bootstrap": bootstrap(random), "soft": soft(random),
    }
    json.dump(golden, open(os.path.join(out, "statistics.json"), "w"), separators=(",", ":"))
    json.dump(labels(source), open(os.path.join(out, "pandalm.json"), "w"), separators=(",", ":"))


if __name__ == "__main__":
    main()
