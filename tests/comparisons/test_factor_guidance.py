from pathlib import Path

import pytest

from dreamsim_guidance.comparisons.factor_guidance import FactorGuidance
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import load


def test_the_comparison_of_factors_writes_a_matrix_and_continues(tmp_path: Path) -> None:
    config = load("guide-factors-tiny").config
    results = config.run(tmp_path)
    assert list(results["shares"]) == ["unguided", "colour", "shape", "people"]
    assert list(results["gains"]) == ["colour", "shape", "people"]
    for rows in results.values():
        for columns in rows.values():
            for interval in columns.values():
                assert interval["count"] == 4 and interval["clusters"] == 2
    shares, gains = results["shares"], results["gains"]
    for row, columns in gains.items():
        for factor in config.columns:
            expected = shares[row][factor]["value"] - shares["unguided"][factor]["value"]
            assert columns[factor]["value"] == pytest.approx(expected)
        others = [columns[factor]["value"] for factor in config.columns if factor != row]
        assert columns["mean of the others"]["value"] == pytest.approx(sum(others) / len(others))
    table = (tmp_path / "table.md").read_text()
    assert table.count("**") == 4 and (tmp_path / "factors.png").is_file()
    cell = tmp_path / "cells" / "colour" / "001.safetensors"
    kept = (tmp_path / "cells" / "shape" / "000.safetensors").stat().st_mtime_ns
    cell.unlink()
    assert config.run(tmp_path) == results
    assert (tmp_path / "cells" / "shape" / "000.safetensors").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("factors=weather", "no adapter 'weather' is attached"),
        ("columns=perspective", "the judge cannot read 'perspective'; it reads: shape"),
        ("n=0", "n must be at least 1"),
        ("factors=colour,colour", "each once"),
    ],
)
def test_impossible_comparisons_are_refused(option: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        override(FactorGuidance(references=1, n=1, steps=2), [option]).run(tmp_path)
    assert not (tmp_path / "cells").exists()
