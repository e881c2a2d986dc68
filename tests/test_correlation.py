"""Tests of the rank correlations and of their weighted (bootstrap) forms."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.correlation import (
    METRICS,
    Estimate,
    bootstrap,
    bootstrap_weights,
    correlate,
    correlate_many,
    kendall_tau,
    metric,
    ndcg,
    paired_difference,
    rank_scores,
    regret,
    sample_many,
    spearman_rho,
    top_precision,
)
from harness.errors import HarnessError

ALL_METRICS = ("kendall", "spearman", "ndcg_1000", "ndcg_7", "top_1%", "top_20%", "regret_10", "regret_3")


def table(n: int, ties: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated scores and accuracies; `ties` names the columns that are rounded to few values."""
    rng = np.random.default_rng(seed)
    accuracies = rng.uniform(40.0, 75.0, n)
    scores = accuracies + rng.normal(0.0, 10.0, n)
    if "accuracy" in ties:
        accuracies = np.round(accuracies / 4.0) * 4.0
    if "score" in ties:
        scores = np.round(scores / 10.0)
    if "failed" in ties:
        scores[rng.random(n) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    return scores, accuracies


TIES = ("none", "score", "accuracy", "score and accuracy", "score and failed")


# Ranks and input ------------------------------------------------------------------------------------------


def test_ranks_are_dense_and_put_failed_rows_below_all_others():
    assert rank_scores([3.0, 1.0, 3.0, 2.0]).tolist() == [2, 0, 2, 1]
    assert rank_scores([np.inf, 1.0, np.nan, -5.0, -np.inf]).tolist() == [0, 2, 0, 1, 0]
    assert rank_scores([np.nan, np.nan]).tolist() == [0, 0]
    assert rank_scores([0.0, -0.0]).tolist() == [0, 0]
    assert rank_scores([None, 2.0]).tolist() == [0, 1]


def test_integer_scores_beyond_float_precision_stay_distinct():
    assert rank_scores(np.array([2**60, 2**60 + 1])).tolist() == [0, 1]


@pytest.mark.parametrize("kind", [list, tuple, lambda values: np.array(values, dtype=object)])
def test_python_integers_up_to_64_bits_stay_distinct(kind):
    assert rank_scores(kind([2**60 + 1, 2**60, None])).tolist() == [2, 1, 0]
    assert rank_scores(kind([2**60 + 1, 2**60, math.nan])).tolist() == [2, 1, 0]
    assert rank_scores(kind([2**63 + 1, 2**63, 1])).tolist() == [2, 1, 0]
    assert rank_scores(kind([2**64 - 1, 2**64 - 2])).tolist() == [1, 0]
    assert rank_scores(kind([-(2**63), True, 1 - 2**63])).tolist() == [0, 2, 1]
    assert rank_scores(kind([2.0**80, -1.0, 2.0**81])).tolist() == [1, 0, 2]


def test_numbers_in_objects_are_numbers():
    values = np.array([Fraction(1, 3), Decimal("0.5"), np.float32(0.25), np.True_, None, math.nan], dtype=object)
    assert rank_scores(values).tolist() == [2, 3, 1, 4, 0, 0]
    hidden = np.ma.masked_array(np.array(["failed", 2, 1], dtype=object), mask=[1, 0, 0])
    assert rank_scores(hidden).tolist() == [0, 2, 1]


UNREADABLE = [
    (np.ones((2, 2)), r"must be one-dimensional, got shape \(2, 2\): give a list"),
    (1.0, r"must be one-dimensional, got shape \(\)"),
    ((i for i in range(2)), "must be one-dimensional"),
    ([[1.0], [1.0, 2.0]], "cannot be read .*: give a list or an array of n numbers"),
    (["a", "b"], r"must be real numbers, got text \(<U1\): convert them, as with float\(\)"),
    (["1", "2"], "must be real numbers, got text"),
    (np.array(["1", "2"], dtype=object), r"must be real numbers, got str at position 0: convert them, as with float"),
    (np.array([b"1", b"2"]), "must be real numbers, got bytes"),
    (np.array([1j, 2j]), r"must be real numbers, got complex numbers \(complex128\)"),
    ([1, 2j, None], "must be real numbers, got complex at position 1"),
    (np.array([1, {}], dtype=object), "must be real numbers, got dict at position 1"),
    (np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]"), "must be real numbers, got dates"),
    (np.zeros(2, dtype=[("a", float)]), "must be real numbers, got another type"),
    ([1, 2**64], "must be real numbers of 64 bits, got a longer integer at position 1: divide them, or take"),
    ([0.5, 10**400], "must be real numbers of 64 bits, got a longer integer at position 1"),
    ([10**5000, 1], "must be real numbers of 64 bits, got a longer integer at position 0"),
    ([-(2**63) - 1, None], "must be real numbers of 64 bits, got a longer integer at position 0"),
    ([2**63, -1], "must be real numbers of 64 bits .*: convert them"),
    ([Fraction(10**400), 1], "must be real numbers of 64 bits .*: convert them"),
]


@pytest.mark.parametrize(("values", "message"), UNREADABLE, ids=map(str, range(len(UNREADABLE))))
def test_what_is_no_real_vector_is_refused(values, message):
    with pytest.raises(ValueError, match=f"^scores {message}") as caught:
        rank_scores(values)
    assert isinstance(caught.value, HarnessError)
    for function in (correlate, kendall_tau, spearman_rho, ndcg, top_precision, regret):
        with pytest.raises(ValueError, match=f"^accuracies {message}"):
            function([1, 2], values)
        with pytest.raises(ValueError, match=f"^scores {message}"):
            function(values, [1, 2])
    with pytest.raises(ValueError, match=f"^naswot {message}"):
        correlate_many({"good": [1, 2], "naswot": values}, [1, 2])
    with pytest.raises(ValueError, match=f"^scores_b {message}"):
        paired_difference([1, 2], values, [1, 2])


def test_tensors_that_numpy_does_not_read_are_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.0, 2.0])
    assert rank_scores(tensor).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"scores cannot be read \(.*detach"):
        rank_scores(tensor.requires_grad_())


def test_scores_of_several_proxies_come_by_name():
    with pytest.raises(ValueError, match="scores must map names to scores, got list"):
        correlate_many([[1, 2]], [1, 2])
    assert list(correlate_many({1: [1, 2], "a": [2, 1]}, [1, 2], "tau", resamples=0)) == [1, "a"]


@pytest.mark.parametrize(
    ("scores", "accuracies", "message"),
    [
        ([1, 2, 3], [1, 2], "scores has 3 rows, accuracies has 2"),
        ([1], [1], "at least 2 rows are needed, got 1: give more architectures"),
        ([], [], "at least 2 rows"),
        (np.ones((2, 2)), [1, 2], "scores must be one-dimensional"),
        ([1, 2], np.ones((2, 2)), "accuracies must be one-dimensional"),
        ([1, 2, 3, 4], [1, np.nan, np.inf, 2], "2 of 4 accuracies are not finite"),
    ],
)
@pytest.mark.parametrize("function", [kendall_tau, spearman_rho, ndcg, top_precision, regret, correlate])
def test_malformed_tables_are_refused(function, scores, accuracies, message):
    with pytest.raises(ValueError, match=message):
        function(scores, accuracies)


@pytest.mark.parametrize("accuracies", [[50.0, 100.5], [-1.0, 50.0]])
def test_ndcg_refuses_accuracies_that_are_not_percentages(accuracies):
    with pytest.raises(ValueError, match=r"1 are outside \[0, 100\]"):
        ndcg([1, 2], accuracies)
    with pytest.raises(ValueError, match="percent"):
        correlate([1, 2], accuracies)


# The best of five architectures scored last: nDCG is 0.387 in percent, and 0.929 if fractions passed.
FRACTIONS = np.array([0.71, 0.73, 0.74, 0.72, 0.94])
MISPLACED = [2, 4, 5, 3, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda accuracies: ndcg(MISPLACED, accuracies),
        lambda accuracies: metric("ndcg_2").weighted(MISPLACED, accuracies),
        lambda accuracies: correlate(MISPLACED, accuracies),
        lambda accuracies: correlate_many({"a": MISPLACED}, accuracies, ["kendall", "ndcg_10"], resamples=0),
        lambda accuracies: paired_difference(MISPLACED, MISPLACED, accuracies, "ndcg_10"),
    ],
)
@pytest.mark.parametrize("accuracies", [FRACTIONS, FRACTIONS.tolist(), FRACTIONS > 0.8, FRACTIONS / 0.94])
def test_ndcg_refuses_fractions_and_names_the_remedies(call, accuracies):
    with pytest.raises(ValueError, match=r"as fractions are. Multiply them by 100; .*\[\"kendall\", \"spearman\"\]"):
        call(accuracies)
    call(100.0 * np.asarray(accuracies))
    call([*np.asarray(accuracies)[:-1], 1.5])


def test_fractions_serve_where_the_unit_makes_no_difference():
    first, second = (correlate(MISPLACED, one, ["kendall", "top_20%"]) for one in (FRACTIONS, 100 * FRACTIONS))
    assert first == second
    assert regret([1, 2], [0.9, 0.8], 1) == pytest.approx(0.1)
    assert ndcg([1, 2, 3], [1.0, 1.0, 1.0]) == ndcg([1, 2, 3], [100.0, 100.0, 100.0]) == 1.0


def test_negated_losses_are_ranked_and_ndcg_of_them_is_refused():
    losses = [-0.61, -0.58, -0.70, -0.65]
    found = correlate([2, 3, 0, 1], losses, ["kendall", "spearman", "regret_2"], resamples=9)
    assert (found["kendall"].value, found["regret_2"].value) == (1.0, 0.0)
    with pytest.raises(ValueError, match=r"4 are outside \[0, 100\]. Where they are another figure, such as a loss,"):
        correlate([2, 3, 0, 1], losses)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ndcg([1, 2], [1, 2], p=0), "p must be at least 1"),
        (lambda: ndcg([1, 2], [1, 2], p=1.5), "p must be a whole number"),
        (lambda: regret([1, 2], [1, 2], top=0), "top must be at least 1"),
        (lambda: top_precision([1, 2], [1, 2], fraction=0.0), "fraction must be in"),
        (lambda: top_precision([1, 2], [1, 2], fraction=1.1), "fraction must be in"),
        (lambda: correlate([1, 2], [1, 2], resamples=-1), "resamples"),
        (lambda: correlate([1, 2], [1, 2], confidence=1.0), "confidence"),
        (lambda: correlate([1, 2], [1, 2], seed=-1), "seed"),
        (lambda: correlate([1, 2], [1, 2], resamples=10**9), r"resamples must be in \[0, 1,000,000\], got 1000000000"),
        (lambda: sample_many({"a": [1, 2]}, [1, 2], resamples=10**9), "resamples must be in"),
        (lambda: paired_difference([1, 2], [1, 2], [1, 2], resamples=10**9), "resamples must be in"),
        (lambda: paired_difference([1, 2], [1, 2], [1, 2], resamples=-1), "resamples must be in .*, got -1"),
        (lambda: correlate([1, 2], [1, 2], resamples=10**5000), "resamples must be in .* beyond 64 bits"),
        (lambda: correlate([1, 2], [1, 2], resamples=10.0), "resamples must be a whole number, got 10.0"),
        (lambda: correlate([1, 2], [1, 2], resamples=True), "resamples must be a whole number, got True"),
        (lambda: correlate([1, 2], [1, 2], confidence="0.9"), r"confidence must be in \(0, 1\), got '0.9'"),
        (lambda: correlate([1, 2], [1, 2], confidence=math.nan), "confidence must be in"),
        (lambda: top_precision([1, 2], [1, 2], fraction="0.1"), r"fraction must be in \(0, 1\], got '0.1'"),
        (lambda: ndcg([1, 2], [1, 2], p=True), "p must be a whole number"),
        (lambda: bootstrap_weights(3, 2**32 + 1, 0), "resamples must be in"),
        (lambda: bootstrap_weights(3.0, 1, 0), "n must be a whole number"),
        (lambda: bootstrap_weights(0, 1, 0), "n must be"),
        (lambda: bootstrap_weights(3, 1, 0, chunk=0), "chunk"),
        (lambda: correlate_many({"good": [1, 2], "naswot": [1]}, [1, 2]), "naswot has 1 rows"),
    ],
)
def test_options_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert isinstance(caught.value, HarnessError), "the command line prints it as one line"


def test_series_are_aligned_by_index():
    pd = pytest.importorskip("pandas")
    scores, accuracies = table(50, "score")
    left = pd.Series(scores, index=[f"net{i}" for i in range(50)])
    right = pd.Series(accuracies, index=left.index)
    shuffled = right.sample(frac=1.0, random_state=0)
    assert kendall_tau(left, shuffled) == kendall_tau(scores, accuracies)
    assert correlate(left.loc[shuffled.index], right, resamples=20) == correlate(scores, accuracies, resamples=20)
    assert kendall_tau(left, accuracies) == kendall_tau(scores, accuracies)
    with pytest.raises(ValueError, match="3 missing from scores, 2 missing from accuracies"):
        correlate(left.iloc[3:], shuffled.drop(["net48", "net49"]))
    with pytest.raises(ValueError, match="scores: 1 duplicate"):
        correlate(pd.concat([left, left.iloc[:1]]), right)


def test_missing_values_of_nullable_series_are_failed():
    pd = pytest.importorskip("pandas")
    assert rank_scores(pd.Series([1.5, None, 0.5], dtype="Float64")).tolist() == [2, 0, 1]
    assert rank_scores(pd.Series([2**60 + 1, None, 2**60], dtype="Int64")).tolist() == [2, 0, 1]
    assert rank_scores(pd.Series([1.5, pd.NA, 0.5], dtype=object).to_numpy()).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"1 of 3 accuracies are .*not finite: leave out"):
        kendall_tau([1, 2, 3], pd.Series([50.0, None, 60.0], dtype="Float64"))
    with pytest.raises(ValueError, match="1 of 3 accuracies are masked, missing or not finite: leave out"):
        kendall_tau([1, 2, 3], [50.0, None, 60.0])


MASKED = np.ma.masked_array([5.0, 999.0, 4.0, -7.0, 1.0], mask=[0, 1, 0, 1, 0])
UNMASKED = [5.0, np.nan, 4.0, np.nan, 1.0]


def test_masked_scores_are_failed():
    accuracies = [70.0, 60.0, 65.0, 75.0, 50.0]
    assert rank_scores(MASKED).tolist() == [3, 0, 2, 0, 1]
    for name in ALL_METRICS:
        assert metric(name).point(MASKED, accuracies) == metric(name).point(UNMASKED, accuracies)
        weights = next(bootstrap_weights(5, 4, 0))
        np.testing.assert_array_equal(
            metric(name).weighted(MASKED, accuracies)(weights), metric(name).weighted(UNMASKED, accuracies)(weights)
        )
    assert correlate(MASKED, accuracies, resamples=9) == correlate(UNMASKED, accuracies, resamples=9)
    assert correlate(MASKED, accuracies, resamples=0).n_failed == 2
    assert paired_difference(MASKED, accuracies, accuracies, resamples=9) == paired_difference(
        UNMASKED, accuracies, accuracies, resamples=9
    )
    together = correlate_many({"a": MASKED, "b": np.ma.masked_array(accuracies)}, accuracies, resamples=9)
    assert together["a"] == correlate(UNMASKED, accuracies, resamples=9)
    assert together["b"].n_failed == 0, "a mask that hides nothing"


def test_masked_integers_stay_distinct():
    values = np.array([2**60, 2**60 + 1, 2**61])
    assert rank_scores(np.ma.masked_array(values, mask=[0, 0, 1])).tolist() == [1, 2, 0]


def test_masked_infinities_and_nan_below_the_mask_count_once():
    scores = np.ma.masked_invalid([3.0, np.nan, np.inf, 2.0])
    scores[3] = np.ma.masked
    assert rank_scores(scores).tolist() == [1, 0, 0, 0]
    assert correlate(scores, [4.0, 3.0, 2.0, 1.0], "kendall", resamples=0).n_failed == 3


@pytest.mark.parametrize("function", [kendall_tau, spearman_rho, ndcg, top_precision, regret, correlate])
def test_masked_accuracies_are_refused(function):
    with pytest.raises(ValueError, match="2 of 5 accuracies are masked, missing or not finite: leave out these rows"):
        function([1, 2, 3, 4, 5], MASKED)
    with pytest.raises(ValueError, match="accuracies are masked"):
        paired_difference([1, 2, 3, 4, 5], [2, 1, 3, 4, 5], MASKED)
    kept = ~MASKED.mask
    function(np.arange(5)[kept], MASKED[kept])


# Point values ---------------------------------------------------------------------------------------------


def test_kendall_and_spearman_by_hand():
    # Of 6 pairs 4 are concordant, 1 is tied in score and 1 in accuracy: 4 / sqrt(5 * 5).
    scores, accuracies = [1, 2, 2, 3], [10, 20, 30, 30]
    assert kendall_tau(scores, accuracies) == pytest.approx(0.8, abs=1e-15)
    # Centred average ranks (-1.5, 0, 0, 1.5) and (-1.5, -0.5, 1, 1): 3.75 / 4.5.
    assert spearman_rho(scores, accuracies) == pytest.approx(3.75 / 4.5, abs=1e-15)


def test_failed_rows_count_as_tied_last():
    scores, accuracies = [np.nan, np.inf, 1.0, 2.0, -np.inf], [70.0, 50.0, 60.0, 65.0, 40.0]
    replaced = [-9.0, -9.0, 1.0, 2.0, -9.0]
    for name in ALL_METRICS:
        assert metric(name).point(scores, accuracies) == metric(name).point(replaced, accuracies)
    # Of 10 pairs 3 are tied in score, 5 are concordant and 2 (both with the first row) discordant.
    assert kendall_tau(scores, accuracies) == pytest.approx((5 - 2) / math.sqrt(7 * 10))
    assert correlate(scores, accuracies, resamples=0).n_failed == 3
    assert correlate(scores, accuracies, resamples=0).n == 5


def test_ndcg_by_hand():
    # Gains 1, 3 and 7 met in this order; the ranks 1, 2, 3 are discounted by log2(2), log2(3), log2(4).
    scores, accuracies = [3, 2, 1], [1, 2, 3]
    log3 = math.log2(3)
    assert ndcg(scores, accuracies, 1) == pytest.approx(1 / 7, rel=1e-14)
    assert ndcg(scores, accuracies, 2) == pytest.approx((1 + 3 / log3) / (7 + 3 / log3), rel=1e-14)
    full = (1 + 3 / log3 + 7 / 2) / (7 + 3 / log3 + 1 / 2)
    assert ndcg(scores, accuracies, 3) == pytest.approx(full, rel=1e-14)
    assert ndcg(scores, accuracies, 1000) == ndcg(scores, accuracies, 3)
    assert ndcg(scores, accuracies, 10**15) == ndcg(scores, accuracies, 3)


def test_ndcg_ranks_start_at_log2_of_2():
    # 0.63... with ranks that start at 1; 0.5 / (1 / log2 3) = 0.79... if they start at 2, and a rank
    # that starts at 0 divides by log2 1 = 0.
    assert ndcg([2, 1], [0, 2], 2) == pytest.approx(1 / math.log2(3), rel=1e-14)


def test_ndcg_in_percent_is_governed_by_the_place_of_the_best():
    accuracies = [80, 70, 100, 90, 60, 50, 40, 30, 20, 10]
    value = ndcg(range(10, 0, -1), accuracies)
    assert value == pytest.approx(0.50, abs=0.001)
    # The best is third, 1 / log2 4; only the 2^-10 of the next best shows beside it.
    best, second = 0.5, 2.0**-10
    assert value == pytest.approx((best + second / math.log2(5)) / (1 + second / math.log2(3)), abs=2e-6)


def test_ndcg_shares_gain_among_ties_also_at_the_cut():
    # Places 1 and 2 hold two of the three tied rows: each has the mean gain (1 + 3 + 7) / 3.
    log3 = math.log2(3)
    expected = (11 / 3) * (1 + 1 / log3) / (7 + 3 / log3)
    assert ndcg([5, 5, 5], [1, 3, 2], 2) == pytest.approx(expected, rel=1e-14)


def test_top_precision_and_regret_by_hand():
    scores, accuracies = [9, 8, 8, 8, 1], [50.0, 90.0, 80.0, 70.0, 95.0]
    # The two best-scored: the first, and one of three of which one is among {95, 90}.
    assert top_precision(scores, accuracies, 0.4) == pytest.approx((1 / 3) / 2)
    assert regret(scores, accuracies, 2) == pytest.approx(95.0 - (90 + 80 + 70) / 3)
    # Two of {90, 80, 70}: the best is 90 in two of three draws.
    assert regret(scores, accuracies, 3) == pytest.approx(95.0 - (90 + 90 + 80) / 3)
    assert regret(scores, accuracies, 4) == 5.0
    assert regret(scores, accuracies, 10) == 0.0
    # Two rows tie for the one place left among the two most accurate: each has half of it.
    assert top_precision([1, 2, 3, 4], [60.0, 70.0, 70.0, 80.0], 0.5) == pytest.approx(0.75)
    # 0.3 of 6 rows are 1.8, rounded to 2, of which one is among the two most accurate.
    assert top_precision(range(6), [1.0, 2.0, 3.0, 5.0, 4.0, 6.0], 0.3) == 0.5
    # Rows tied in both: whichever is taken for the second place is a member by half.
    assert top_precision([1, 2, 2, 3], [60.0, 70.0, 70.0, 80.0], 0.5) == pytest.approx(0.75)
    assert top_precision([1, 2, 3], [1.0, 2.0, 3.0]) == 1.0


def test_constant_scores_leave_correlations_undefined_and_the_rest_defined():
    for scores in ([1, 1, 1], [np.nan, np.inf, np.nan]):
        assert math.isnan(kendall_tau(scores, [1, 2, 3]))
        assert math.isnan(spearman_rho(scores, [1, 2, 3]))
        assert 0.0 < ndcg(scores, [1, 2, 3], 2) < 1.0
        assert top_precision(scores, [1, 2, 3], 1 / 3) == pytest.approx(1 / 3)
        assert regret(scores, [1, 2, 3], 1) == pytest.approx(1.0)
    assert math.isnan(kendall_tau([1, 2, 3], [5, 5, 5]))
    assert math.isnan(spearman_rho([1, 2, 3], [5, 5, 5]))
    assert math.isnan(ndcg([1, 2, 3], [0, 0, 0]))


def varied(n: int, ties: str) -> bool:
    """Whether neither column of the table is constant."""
    return all(len(set(column)) > 1 for column in table(n, ties, seed=n))


@pytest.mark.parametrize(("n", "ties"), [(n, ties) for n in (2, 3, 17, 300) for ties in TIES[:4] if varied(n, ties)])
def test_correlations_are_those_of_scipy(ties, n):
    scores, accuracies = table(n, ties, seed=n)
    assert kendall_tau(scores, accuracies) == pytest.approx(stats.kendalltau(scores, accuracies).statistic, abs=1e-14)
    assert spearman_rho(scores, accuracies) == pytest.approx(stats.spearmanr(scores, accuracies).statistic, abs=1e-14)


@pytest.mark.parametrize("ties", TIES[:4])
@pytest.mark.parametrize("p", [1, 2, 10, 299, 300, 5000])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning:sklearn")
def test_ndcg_is_that_of_scikit_learn_on_the_gains(ties, p):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    scores, accuracies = table(300, ties, seed=p)
    gains = np.exp2(accuracies) - 1.0
    expected = sklearn_metrics.ndcg_score(gains[None], scores[None], k=p)
    assert ndcg(scores, accuracies, p) == pytest.approx(expected, rel=1e-12)


def mean_over_tie_orders(scores, accuracies, value_in_order) -> float:
    """Mean of a value over all orders of the rows that are compatible with descending scores."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return float(np.mean([value_in_order([accuracies[i] for i in order]) for order in orders]))


@pytest.mark.parametrize("seed", range(12))
def test_ties_are_expectations_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    n = 6
    scores = rng.integers(0, 3, n)
    accuracies = rng.choice([1.0, 2.0, 3.5, 5.0, 6.0], n)
    best_first = sorted(accuracies, reverse=True)

    def dcg(values, p):
        return sum((2**value - 1) / math.log2(1 + rank) for rank, value in enumerate(values[:p], start=1))

    for p in range(1, n + 1):
        expected = mean_over_tie_orders(scores, accuracies, lambda row, p=p: dcg(row, p) / dcg(best_first, p))
        assert ndcg(scores, accuracies, p) == pytest.approx(expected, rel=1e-12)

        expected = mean_over_tie_orders(scores, accuracies, lambda row, p=p: best_first[0] - max(row[:p]))
        assert regret(scores, accuracies, p) == pytest.approx(expected, abs=1e-12)

        # Membership in the top p is itself an expectation over the orders of tied accuracies.
        cut = best_first[p - 1]
        free = p - sum(value > cut for value in best_first)
        member = {value: 1.0 if value > cut else 0.0 for value in best_first}
        member[cut] = free / best_first.count(cut)
        expected = mean_over_tie_orders(
            scores, accuracies, lambda row, p=p, member=member: sum(member[v] for v in row[:p]) / p
        )
        assert top_precision(scores, accuracies, p / n) == pytest.approx(expected, abs=1e-12)


# Properties -----------------------------------------------------------------------------------------------

# Integers in a small range: transformations below are exact, and ties frequent. 0 and 1 alone would be fractions.
pairs = st.lists(st.tuples(st.integers(-6, 6), st.sampled_from([0, *range(2, 13)])), min_size=2, max_size=40)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_values_stay_in_range(rows):
    scores, accuracies = np.array(rows, dtype=float).T
    for one in METRICS.values():
        value = one.point(scores, accuracies)
        low, high = one.value_range
        assert math.isnan(value) or low <= value <= high


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_reversed_scores_negate_the_correlations(rows):
    scores, accuracies = np.array(rows, dtype=float).T
    for function in (kendall_tau, spearman_rho):
        value = function(scores, accuracies)
        assert function(-scores, accuracies) == pytest.approx(-value, abs=1e-12, nan_ok=True)


@given(pairs)
@settings(max_examples=40, deadline=None)
def test_increasing_transformations_change_nothing(rows):
    scores, accuracies = np.array(rows, dtype=float).T
    before = correlate(scores, accuracies, ALL_METRICS, resamples=5)
    for transformed in (3.0 * scores - 1.0, np.exp(scores), scores**3):
        assert repr(correlate(transformed, accuracies, ALL_METRICS, resamples=5)) == repr(before)


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_row_order_changes_no_bit_of_a_value(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = (correlate(*np.array(each, dtype=float).T, ALL_METRICS, resamples=0) for each in (rows, shuffled))
    assert repr(first) == repr(second)


def test_a_resample_is_of_the_same_rows_whatever_their_accuracies_are():
    """So that a mean over datasets of the same architectures has its own distribution."""
    scores, accuracies = table(60, "score")
    drawn = next(bootstrap_weights(60, 8, 0)).astype(int)
    for other in (accuracies, accuracies[::-1].copy(), table(60, "none", 3)[1]):
        found = sample_many({"one": scores}, other, "kendall", resamples=8)["one"].resampled["kendall"]
        ranked = rank_scores(scores)
        expected = [kendall_tau(np.repeat(ranked, counts), np.repeat(other, counts)) for counts in drawn.T]
        np.testing.assert_allclose(found, expected, atol=1e-12)


# Weighted values ------------------------------------------------------------------------------------------


def weights_for(n: int) -> np.ndarray:
    """Bootstrap counts, the data itself, and all copies on one row or on a few."""
    extreme = np.zeros((n, 3))
    extreme[0, 0] = extreme[-1, 1] = n
    extreme[[0, n // 2, -1], 2] = 1, n - 2, 1
    return np.hstack([next(bootstrap_weights(n, 4, 1)), np.ones((n, 1)), extreme])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("n", [2, 5, 64, 65, 130, 700])
def test_weighted_values_are_the_values_on_the_replicated_data(n, ties):
    scores, accuracies = table(n, ties, seed=n)
    weights = weights_for(n)
    for name in ALL_METRICS:
        one = metric(name)
        values = one.weighted(scores, accuracies)(weights)
        assert values.shape == (weights.shape[1],)
        expected = []
        for column in weights.T.astype(int):
            replicated = np.repeat(np.nan_to_num(scores, nan=-99, posinf=-99, neginf=-99), column)
            expected.append(one.point(replicated, np.repeat(accuracies, column)))
        np.testing.assert_allclose(values, expected, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("ties", TIES[:4])
def test_weighted_correlations_are_those_of_scipy_on_replicated_data(ties):
    scores, accuracies = table(2500, ties)
    weights = next(bootstrap_weights(2500, 3, 0))
    tau = metric("kendall").weighted(scores, accuracies)(weights)
    rho = metric("spearman").weighted(scores, accuracies)(weights)
    for r, column in enumerate(weights.T.astype(int)):
        x, y = np.repeat(scores, column), np.repeat(accuracies, column)
        assert tau[r] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
        assert rho[r] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("name", ["kendall", "spearman"])
def test_counts_that_single_precision_would_round_are_counted_in_double(name):
    """A resample of one row almost alone takes the plan beyond 2^24, where the same counts give the same bits."""
    n = 3000
    rng = np.random.RandomState(0)
    accuracies = np.round(rng.rand(n), 3)
    scores = np.round(accuracies + rng.rand(n), 2)
    weights = next(bootstrap_weights(n, 3, seed=0))
    crowded = np.zeros((n, 1))
    crowded[:9], crowded[9] = 1.0, n - 9
    plan = metric(name).weighted(scores, accuracies)
    alone, together = plan(weights), plan(np.concatenate((weights, crowded), axis=1))
    assert together[:3].tolist() == alone.tolist()
    for column, value in zip((*weights.T, *crowded.T), together, strict=True):
        rows = np.repeat(np.arange(n), column.astype(int))
        assert value == pytest.approx(metric(name).point(scores[rows], accuracies[rows]), abs=1e-12)


def test_perfect_and_reversed_rankings_are_exact_in_every_resample():
    accuracies = np.linspace(10.0, 90.0, 20_000)
    weights = next(bootstrap_weights(accuracies.size, 2, 0))
    for sign in (1.0, -1.0):
        assert metric("kendall").weighted(sign * accuracies, accuracies)(weights).tolist() == [sign, sign]
        assert metric("spearman").weighted(sign * accuracies, accuracies)(weights).tolist() == [sign, sign]
    assert metric("ndcg_1000").weighted(accuracies, accuracies)(weights).tolist() == [1.0, 1.0]
    assert metric("regret_10").weighted(accuracies, accuracies)(weights).tolist() == [0.0, 0.0]


def test_a_plan_can_be_evaluated_repeatedly():
    scores, accuracies = table(200, "score")
    weights = next(bootstrap_weights(200, 5, 0))
    for name in ALL_METRICS:
        plan = metric(name).weighted(scores, accuracies)
        first = plan(weights)
        plan(next(bootstrap_weights(200, 5, 9)))
        np.testing.assert_array_equal(plan(weights), first)


# Names ----------------------------------------------------------------------------------------------------


def test_metrics_are_found_by_name():
    assert list(METRICS) == ["kendall", "spearman", "ndcg_1000", "top_1%", "regret_10"]
    assert all(metric(name) is one and one.name == name for name, one in METRICS.items())
    assert [one.direction for one in METRICS.values()] == ["higher"] * 4 + ["lower"]
    scores, accuracies = table(400, "none")
    assert metric("ndcg_50").point(scores, accuracies) == ndcg(scores, accuracies, 50)
    assert metric("top_0.5%").point(scores, accuracies) == top_precision(scores, accuracies, 0.005)
    assert metric("top_100%").point(scores, accuracies) == 1.0
    assert metric("regret_1").point(scores, accuracies) == regret(scores, accuracies, 1)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("tau", "kendall"), ("rho", "spearman"), ("ndcg", "ndcg_1000"), ("kendall", "kendall"), ("top_20%", "top_20%")],
)
def test_metrics_are_asked_for_by_one_name_and_by_short_names(name, canonical):
    scores, accuracies = table(40, "score")
    assert metric(name) is metric(canonical)
    expected = correlate(scores, accuracies, [canonical], resamples=9)
    for asked in (name, [name], (one for one in (name,)), [name, canonical]):
        assert correlate(scores, accuracies, asked, resamples=9) == expected
        assert list(expected.estimates) == [canonical]
    assert expected[name] == expected[canonical]
    assert correlate_many({"a": scores}, accuracies, name, resamples=9)["a"] == expected
    assert list(sample_many({"a": scores}, accuracies, name, resamples=9)["a"].values) == [canonical]
    assert paired_difference(scores, accuracies, accuracies, name, 9) == paired_difference(
        scores, accuracies, accuracies, canonical, 9
    )
    with pytest.raises(KeyError, match="'tao' was not computed; there are"):
        expected["tao"]


@pytest.mark.parametrize("metrics", [None, 5, [None], [["tau"]], [METRICS["kendall"]]])
def test_metrics_that_are_no_names_are_refused(metrics):
    with pytest.raises(ValueError, match=r"valid.*: kendall, spearman, ndcg_P.*tau, rho, ndcg are short for kendall"):
        correlate([1, 2], [1, 2], metrics)


@pytest.mark.parametrize(
    ("name", "near"),
    [("kendal", "kendall"), ("Spearman", "spearman"), ("ndcg1000", "ndcg_1000"), ("top_1", "top_1%"), ("taus", "tau")],
)
def test_an_unknown_metric_names_the_nearest_and_all_names(name, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'.*kendall, spearman, ndcg_P.*top_F%.*regret_K"):
        correlate([1, 2], [1, 2], (name,))


@pytest.mark.parametrize("name", ["", "accuracy", "ndcg_0", "ndcg_010", "ndcg_-5", "regret_1.5", "top_0%", "top_101%"])
def test_names_with_parameters_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match="metric"):
        metric(name)


# Bootstrap ------------------------------------------------------------------------------------------------


def test_weights_are_counts_that_depend_on_neither_chunk_nor_number():
    whole = np.hstack(list(bootstrap_weights(37, 23, 5)))
    assert whole.shape == (37, 23)
    assert (whole.sum(axis=0) == 37).all()
    assert (whole >= 0).all()
    assert (whole == np.round(whole)).all()
    for chunk in (1, 4, 23, 100):
        np.testing.assert_array_equal(np.hstack(list(bootstrap_weights(37, 23, 5, chunk=chunk))), whole)
    np.testing.assert_array_equal(np.hstack(list(bootstrap_weights(37, 7, 5))), whole[:, :7])
    assert not np.array_equal(np.hstack(list(bootstrap_weights(37, 23, 6))), whole)
    assert list(bootstrap_weights(37, 0, 5)) == []


@pytest.mark.parametrize("seed", [1.0, True, np.True_, 1.5, "1", None, -1, 2**32, pytest.param(10**5000, id="long")])
@pytest.mark.parametrize("known", [True, False])
def test_seeds_that_are_no_whole_number_of_32_bits_are_refused_whatever_was_drawn_before(seed, known):
    bootstrap._counts.cache_clear()
    if known:
        correlate([1, 2], [1, 2], resamples=5, seed=1)
    for call in (
        lambda: correlate([1, 2], [1, 2], resamples=5, seed=seed),
        lambda: paired_difference([1, 2], [2, 1], [1, 2], resamples=5, seed=seed),
        lambda: sample_many({"a": [1, 2]}, [1, 2], resamples=5, seed=seed),
        lambda: bootstrap_weights(2, 5, seed),
    ):
        with pytest.raises(ValueError, match="seed must be"):
            call()


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint64, np.array])
def test_a_seed_of_any_type_of_integer_is_the_same_seed(kind):
    scores, accuracies = table(30, "none")
    bootstrap._counts.cache_clear()
    found = correlate(scores, accuracies, resamples=kind(9), seed=kind(1))
    bootstrap._counts.cache_clear()
    assert found == correlate(scores, accuracies, resamples=9, seed=1)
    assert (type(found.seed), type(found.resamples)) == (int, int)


def test_resamples_of_many_proxies_are_refused_before_they_fill_the_memory():
    proxies = {f"p{i}": [1, 2, 3] for i in range(60)}
    with pytest.raises(ValueError, match=r"1,000,000 resamples of 3 metrics and 60 proxies take 1.3 GiB: ask"):
        correlate_many(proxies, [1, 2, 3], resamples=10**6)


def test_weights_have_the_moments_of_the_multinomial():
    counts = np.hstack(list(bootstrap_weights(50, 2000, 0)))
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.02)
    assert np.abs(counts.mean(axis=1) - 1.0).max() < 5 / math.sqrt(2000)


def test_a_chunk_of_a_large_space_stays_below_100_megabytes():
    chunk = next(bootstrap_weights(423_624, 10**6, 0))
    assert chunk.shape[1] >= 8
    assert chunk.nbytes < 100e6


def test_intervals_do_not_depend_on_the_chunk(monkeypatch):
    scores, accuracies = table(150, "score and accuracy")
    before = correlate(scores, accuracies, ALL_METRICS, resamples=30)
    monkeypatch.setattr(bootstrap, "_CHUNK_COLUMNS", 7)
    after = correlate(scores, accuracies, ALL_METRICS, resamples=30)
    for name in ALL_METRICS:
        assert after[name].low == pytest.approx(before[name].low, rel=1e-12)
        assert after[name].high == pytest.approx(before[name].high, rel=1e-12)


def test_the_interval_is_made_of_percentiles_of_the_replicated_data():
    scores, accuracies = table(60, "score and accuracy")
    order = np.lexsort((scores, accuracies))
    scores, accuracies = scores[order], accuracies[order]
    weights = np.hstack(list(bootstrap_weights(60, 40, 3))).astype(int)
    for name in ALL_METRICS:
        values = [metric(name).point(np.repeat(scores, column), np.repeat(accuracies, column)) for column in weights.T]
        estimate = correlate(scores, accuracies, name, resamples=40, confidence=0.9, seed=3)[name]
        assert estimate.value == metric(name).point(scores, accuracies)
        assert [estimate.low, estimate.high] == pytest.approx(np.percentile(values, [5, 95]), abs=1e-10)


def test_a_correlation_tells_how_it_was_made():
    scores, accuracies = table(100, "failed")
    result = correlate(scores, accuracies, ["kendall"], resamples=10, confidence=0.8, seed=4)
    assert (result.n, result.n_failed) == (100, np.count_nonzero(~np.isfinite(scores)))
    assert (result.resamples, result.confidence, result.seed) == (10, 0.8, 4)
    assert result["kendall"] is result.estimates["kendall"]
    with pytest.raises(KeyError, match="'spearman' was not computed; there are kendall"):
        result["spearman"]


def test_without_resamples_there_is_no_interval():
    estimate = correlate([1, 2, 3], [1, 3, 2], resamples=0)["kendall"]
    assert estimate.value == pytest.approx(1 / 3)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_undefined_resamples_are_left_out():
    # Half of the resamples of two rows hold only one of them.
    estimate = correlate([1, 2], [1, 2], ["kendall"], resamples=50)["kendall"]
    assert estimate == Estimate(1.0, 1.0, 1.0)
    constant = correlate([1, 1, 1], [1, 2, 3], resamples=20)
    assert all(math.isnan(end) for end in vars(constant["kendall"]).values())
    assert not math.isnan(constant["ndcg_1000"].low)


@pytest.mark.parametrize("ties", ["none", "accuracy"])
def test_proxies_measured_together_have_values_and_intervals_of_each_alone(ties):
    accuracies = table(300, ties)[1]
    proxies = {name: table(300, kind)[0] for name, kind in zip("dcab", TIES[:4], strict=True)}
    proxies["e"] = np.full(300, np.nan)
    together = correlate_many(proxies, accuracies, resamples=20)
    assert list(together) == list(proxies)
    assert together["e"].n_failed == 300
    for name, scores in proxies.items():
        assert repr(together[name]) == repr(correlate(scores, accuracies, resamples=20))
    assert correlate_many({}, accuracies) == {}


def test_differences_are_paired():
    scores, accuracies = table(200, "none")
    other = scores + np.random.default_rng(1).normal(0.0, 0.5, 200)
    assert paired_difference(scores, scores, accuracies, resamples=30) == Estimate(0.0, 0.0, 0.0)

    difference = paired_difference(scores, other, accuracies, "spearman", resamples=200)
    a, b = (correlate(each, accuracies, "spearman", resamples=200)["spearman"] for each in (scores, other))
    assert difference.value == a.value - b.value
    assert difference.low <= difference.value <= difference.high
    # The proxies nearly agree: their difference is far better known than either value.
    assert difference.high - difference.low < 0.3 * (a.high - a.low)

    swapped = paired_difference(other, scores, accuracies, "spearman", resamples=200)
    assert (swapped.value, -swapped.high, -swapped.low) == pytest.approx(
        (-difference.value, difference.low, difference.high), abs=1e-12
    )


def test_the_difference_is_between_values_on_the_same_resamples():
    accuracies = table(80, "none")[1]
    first, second = table(80, "score", 1)[0], table(80, "failed", 2)[0]
    weights = np.hstack(list(bootstrap_weights(80, 25, 0)))
    values = [metric("kendall").weighted(scores, accuracies)(weights) for scores in (first, second)]
    expected = np.percentile(values[0] - values[1], [2.5, 97.5])
    estimate = paired_difference(first, second, accuracies, resamples=25)
    assert [estimate.low, estimate.high] == pytest.approx(expected, abs=1e-14)


def test_intervals_cover_the_true_value_about_as_often_as_claimed():
    # Kendall's tau of a bivariate normal is (2 / pi) arcsin(rho).
    rng = np.random.default_rng(0)
    rho, n, repeats = 0.6, 120, 250
    truth = 2 / math.pi * math.asin(rho)
    covered = 0
    for _ in range(repeats):
        x = rng.normal(size=n)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=n)
        estimate = correlate(x, y, ("kendall",), resamples=150, confidence=0.9)["kendall"]
        covered += estimate.low <= truth <= estimate.high
    # Three standard errors of a coverage of 0.9 over the repeats are 0.057.
    assert 0.84 <= covered / repeats <= 0.96
