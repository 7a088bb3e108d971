"""The metrics as functions of features: closed forms, invariants, and the libraries' own functions on the same rows."""

import numpy as np
import pytest
import torch
from cleanfid import fid as clean
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_rbf, kid_features_to_metric, mmd2
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import _compute_fid

from bench.fidelity import metrics
from bench.fidelity.intervals import NUM_GROUPS, bias_curve, deal_groups, jackknife
from l2p.errors import InputError

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(8, 8))
X = (RNG.normal(size=(300, 8)) @ MIX + 1).astype(np.float32)
Y = (RNG.normal(size=(260, 8)) @ MIX * 1.2).astype(np.float32)


def fid(x, y):
    return metrics.frechet_distance(*(metrics.moments_of(metrics.sums_of(rows)) for rows in (x, y)))


def test_fid_is_what_the_three_libraries_give():
    value = fid(X, Y)
    stats = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in (X, Y)]
    assert value == pytest.approx(fid_statistics_to_metric(*stats, False)["frechet_inception_distance"], rel=1e-4)
    assert value == pytest.approx(clean.fid_from_feats(X, Y), rel=1e-4)
    moments = [torch.from_numpy(part) for rows in (X, Y) for part in (rows.mean(0), np.cov(rows, rowvar=False))]
    assert value == pytest.approx(float(_compute_fid(*[part.double() for part in moments])), rel=1e-4)
    assert value > 1


def test_fid_of_gaussians_has_its_closed_form():
    a = metrics.Moments(count=9, mean=np.array([1.0, 2.0]), covariance=np.diag([4.0, 9.0]))
    b = metrics.Moments(count=9, mean=np.array([0.0, 0.0]), covariance=np.diag([1.0, 16.0]))
    assert metrics.frechet_distance(a, b) == pytest.approx(5 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert metrics.frechet_distance(b, a) == pytest.approx(metrics.frechet_distance(a, b))
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_fid_of_singular_covariances_is_a_number_and_right():
    few, wide = X[:5], np.concatenate([X, X[::-1]], 1)  # 5 rows of 8 columns; columns that repeat
    assert np.isfinite(fid(few, Y)) and fid(few, Y) > 0
    assert fid(wide, wide) == pytest.approx(0, abs=1e-6)
    constant = np.ones((4, 8), np.float32)
    spread = np.trace(np.cov(Y, rowvar=False)) + np.square(Y.astype(float).mean(0) - 1).sum()
    assert fid(constant, Y) == pytest.approx(spread, rel=1e-6)


def test_fewer_rows_than_features_have_the_same_fid():
    rows, reference = X[:6].astype(float), metrics.moments_of(metrics.sums_of(Y))
    products = rows @ reference.covariance @ rows.T
    found = metrics.frechet_distance_of_rows(rows, products, reference)
    assert found == pytest.approx(fid(X[:6], Y), rel=1e-6)  # there a root of rounding, 1e-16, is 1e-8
    with pytest.raises(InputError, match="needs 2 pictures"):
        metrics.frechet_distance_of_rows(rows[:1], products[:1, :1], reference)


def test_one_picture_has_no_covariance():
    with pytest.raises(InputError, match="needs 2 pictures"):
        metrics.moments_of(metrics.sums_of(X[:1]))


def test_sums_add_and_leave_out():
    whole, part = metrics.sums_of(X), metrics.sums_of(X[:40])
    rest = whole - part
    assert rest.count == 260
    assert np.allclose((rest + part).products, whole.products)
    assert np.allclose(metrics.moments_of(rest).covariance, np.cov(X[40:], rowvar=False), rtol=1e-6)


@pytest.mark.parametrize("splits", [1, 10])
def test_is_is_torch_fidelitys(splits):
    theirs = isc_features_to_metric(torch.from_numpy(X), splits=splits)["inception_score_mean"]
    assert metrics.inception_score(X, splits=splits) == pytest.approx(theirs, rel=1e-6)
    assert theirs > 1.1
    assert metrics.inception_score(np.zeros((20, 4))) == pytest.approx(1)
    sure = np.eye(4).repeat(5, 0) * 1000
    assert metrics.inception_score(sure, splits=1) == pytest.approx(4)  # four classes, each sure
    with pytest.raises(InputError, match="10 splits needs 10 pictures; there are 9"):
        metrics.inception_score(X[:9])


KID = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}


def test_kid_is_torch_fidelitys_subset_by_subset():
    options = {**KID, "kid_subsets": 5, "kid_subset_size": 100, "rng_seed": 2020, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(X), torch.from_numpy(Y), **options)[
        "kernel_inception_distance_mean"
    ]
    ours = metrics.kernel_distance(X, Y, subsets=5, subset_size=100)
    assert ours == pytest.approx(theirs, rel=1e-4) and ours > 0.1
    assert metrics.kernel_distance(X, Y, subsets=5, subset_size=100, seed=1) != pytest.approx(theirs, rel=1e-4)


def test_kid_of_the_whole_is_clean_fids():
    np.random.seed(0)  # clean-fid draws its subsets there; of all pictures they are the whole
    theirs = clean.kernel_distance(Y, X[:260], num_subsets=1, max_subset_size=260)
    assert metrics.kernel_distance(X[:260], Y, subsets=1, subset_size=260) == pytest.approx(theirs, rel=1e-4)


def test_kid_needs_a_subset():
    with pytest.raises(InputError, match="subsets are of 1000 pictures; there are 300 images and 260"):
        metrics.kernel_distance(X, Y)


def test_kernel_sums_leave_a_group_out(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 70)  # several blocks
    groups = deal_groups(len(X))
    sums = metrics.cubic_sums(X, Y, groups)
    for left_out in (None, 3):
        rows = X[groups != left_out] if left_out is not None else X
        x, y = rows.astype(float), Y.astype(float)
        k = [(a @ b.T / 8 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
        assert metrics.unbiased_mmd_without(sums, left_out) == pytest.approx(_mmd(*k), rel=1e-9)


def _mmd(xx, yy, xy):
    m, n = xy.shape
    return (xx.sum() - np.trace(xx)) / m / (m - 1) + (yy.sum() - np.trace(yy)) / n / (n - 1) - 2 * xy.mean()


def test_cmmd_is_the_biased_mmd_of_unit_vectors():
    x, y = (rows[:200] / np.linalg.norm(rows[:200], axis=1, keepdims=True) for rows in (X, Y))
    k = [kernel_rbf(a.astype(float), b.astype(float), kid_kernel_rbf_sigma=10.0) for a, b in ((x, x), (x, y), (y, y))]
    sums = metrics.gaussian_sums(X[:200], Y[:200], deal_groups(200))
    value = metrics.cmmd_without(sums)
    assert value == pytest.approx(1000 * mmd2(*k, mmd_est="biased"), rel=1e-6) and value > 0.1
    assert metrics.cmmd_without(metrics.gaussian_sums(X, X, deal_groups(len(X)))) == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_are_torch_fidelitys(monkeypatch):
    options = {"prc_neighborhood": 3, "prc_batch_size": 50, "save_cpu_ram": False, "verbose": False}
    theirs = prc_features_to_metric(torch.from_numpy(X), torch.from_numpy(Y), **options)
    monkeypatch.setattr(metrics, "BLOCK", 70)
    assert metrics.precision_rows(X, Y).mean() == pytest.approx(theirs["precision"], abs=1e-6)
    assert metrics.precision_rows(Y, X).mean() == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0.1 < theirs["precision"] < 0.95 and theirs["precision"] != theirs["recall"]
    with pytest.raises(InputError, match="3 neighbours need 4 pictures; there are 3"):
        metrics.precision_rows(X, Y[:3])


def test_groups_are_equal_and_dealt_by_the_seed():
    groups = deal_groups(100)
    counts = np.bincount(groups)
    assert len(counts) == NUM_GROUPS and set(counts) == {6, 7}
    assert (groups == deal_groups(100)).all() and (groups != deal_groups(100, seed=1)).any()
    assert sorted(deal_groups(5)) == [0, 1, 2, 3, 4]


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(1).normal(size=16)
    without = [np.delete(values, k).mean() for k in range(16)]
    low, high = jackknife(values.mean(), without)
    assert (high - low) / 2 == pytest.approx(2.1314495 * values.std(ddof=1) / 4, rel=1e-6)
    assert (high + low) / 2 == pytest.approx(values.mean())


def test_fids_bias_is_shown_and_its_end_is_nearer_the_truth():
    """Two sets of one distribution: the truth is 0, FID at n is above it about as 1 / n."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(1600, 40))
    reference = metrics.Moments(count=10**9, mean=np.zeros(40), covariance=np.eye(40))
    groups = [metrics.sums_of(rows[deal_groups(1600) == group]) for group in range(NUM_GROUPS)]

    def distance(chosen):
        total = sum((groups[k] for k in chosen[1:]), groups[chosen[0]])
        return metrics.frechet_distance(metrics.moments_of(total), reference)

    bias = bias_curve([100] * 16, distance)
    values = [row["value"] for row in bias["curve"]]
    assert [row["n"] for row in bias["curve"]] == [400, 800, 1600]
    assert values[0] > values[1] > values[2] > 0.01
    assert values[0] / values[2] == pytest.approx(4, rel=0.3)
    assert abs(bias["at_infinity"]) < values[2] / 3
    assert bias_curve([100] * 8, distance) == {}
