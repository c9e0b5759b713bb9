"""The arithmetic of very large indexes."""

import json
from pathlib import Path

import pytest

from dreamsim_guidance.retrieval.arithmetic import (
    CODES,
    Scale,
    cost_rows,
    costs,
    index_bytes,
    index_headings,
    index_rows,
    main,
    read_per_query,
    training_memory,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "retrieval_at_scale.md"


def test_the_hours_are_pictures_over_the_rate():
    sums = costs(Scale(pictures=3600 * 1000, rate=100, decode=0.01, days=1))
    assert sums.gpu_hours == pytest.approx(10)
    assert sums.core_hours == pytest.approx(10)
    assert sums.gpus == pytest.approx(10 / 24)
    assert sums.cores_per_gpu == pytest.approx(1)


def test_a_billion_vectors_of_the_ensemble_take_three_and_a_half_terabytes():
    assert costs(Scale()).vectors == 3.584e12


@pytest.mark.parametrize("code", CODES)
def test_an_index_grows_by_its_codes_and_row_numbers(code):
    small, large = Scale(pictures=1e6, partitions=1000), Scale(pictures=2e6, partitions=1000)
    assert index_bytes(large, code) - index_bytes(small, code) == 1e6 * (code + 8)
    assert 1792 % code == 0


def test_the_memory_to_train_ends_at_the_table_itself():
    assert training_memory(Scale(pictures=1000, partitions=100, sample=256)) == 1000 * 1792 * 4


def test_a_query_reads_the_probed_codes_and_the_candidates():
    assert read_per_query(Scale(pictures=1000, probed=0.5, candidates=10), 56) == 500 * 64 + 10 * 1792 * 2


def test_a_price_needs_both_prices():
    assert costs(Scale(gpu_price=3)).price is None
    assert costs(Scale(pictures=3600, rate=1, decode=2, gpu_price=3, core_price=0.5)).price == pytest.approx(4.0)


@pytest.mark.parametrize("change", [{"pictures": 0}, {"rate": -1}, {"decode": float("nan")}, {"probed": 1.5}])
def test_impossible_figures_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Scale(**change)


def test_the_default_rate_is_the_recorded_one():
    recorded = json.loads((ROOT / "benchmarks" / "results" / "gpu_table_cuda.json").read_text())
    (row,) = (row for row in recorded["parts"]["step"] if (row["side"], row["batch"]) == ("captured, bfloat16", 64))
    assert Scale().rate == pytest.approx(64 / row["s"], rel=1e-4)


def test_the_default_decoding_time_is_the_recorded_one():
    recorded = json.loads((ROOT / "benchmarks" / "results" / "picture_decoding.json").read_text())
    (row,) = (row for row in recorded["rows"] if (row["side"], row["kind"]) == (512, "JPEG"))
    assert Scale().decode == pytest.approx(row["s"], rel=0.05)


def test_the_page_has_the_computed_figures():
    page = PAGE.read_text()
    for name, value in cost_rows(Scale()):
        assert f"| {name} | {value} |" in page
    for row in index_rows(Scale()):
        assert f"| {' | '.join(row)} |" in page


def test_the_command_prints_both_tables(capsys):
    main(["--pictures", "1e6", "--gpu-price", "3", "--core-price", "0.04", "--storage-price", "0.02"])
    printed = capsys.readouterr().out
    assert "1,000,000 pictures" in printed
    assert "price of embedding" in printed
    assert all(heading in printed for heading in index_headings(Scale(storage_price=1)))


def test_the_page_has_the_recorded_recall():
    recorded = json.loads((ROOT / "benchmarks" / "results" / "retrieval_recall.json").read_text())
    page = PAGE.read_text()
    names = ("codes recall@10", "codes recall@24", "re-ranked recall@10", "re-ranked recall@24")
    assert recorded["rows"]
    for row in recorded["rows"]:
        recall = " | ".join(f"{row[name]:.2f}" for name in names)
        assert f"| {row['rows']:,} | {row['bytes']} | {recall} | {row['re-ranked ms']:.0f} |" in page
    for scenes, model in zip(recorded["check"]["scenes"], recorded["check"]["model"], strict=True):
        pairs = " | ".join(f"{side[name]:.2f}" for name in names[:2] for side in (scenes, model))
        assert f"| {scenes['bytes']} | {pairs} |" in page
    for code, recall in recorded["extrapolated to 1e9 rows"].items():
        assert f"| {code} | {recall[names[0]]:.2f} | {recall[names[1]]:.2f} |" in page
