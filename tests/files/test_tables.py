import math
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.tables import markdown_table, text_table


def test_numbers_are_aligned_to_the_right_and_words_to_the_left() -> None:
    rows = [["dino", 0.5, 3, "fits"], ["l2", -12.25, 1000, "too much"]]
    assert text_table(["metric", "value", "n", "verdict"], rows).splitlines() == [
        "metric     value     n  verdict",
        "dino      0.5000     3  fits",
        "l2      -12.2500  1000  too much",
    ]


def test_numbers_with_intervals_and_gaps_are_aligned_too() -> None:
    rows = [["a", "+0.1000 [0.0, 0.2]"], ["b", "-"], ["c", None], ["d", "10.1000 [9.9, 10.2]"], ["e", math.nan]]
    lines = text_table(["", "lead"], rows).splitlines()
    assert {len(line) for line in (*lines[:3], *lines[4:])} == {len(lines[4])}
    assert lines[3] == "c" and lines[5].endswith("nan")


def test_text_that_begins_with_a_number_is_no_number() -> None:
    lines = text_table(["", ""], [["triplets", "12, 3 of them with equal votes"], ["votes", "7"]]).splitlines()
    assert lines[2] == "votes     7"


def test_numbers_with_units_are_aligned_to_the_right() -> None:
    assert text_table(["time"], [["1.00 x"], ["12.50 x"]]).splitlines()[1] == " 1.00 x"


def test_a_cell_that_looks_like_a_number_is_printed_as_it_is_written() -> None:
    table = text_table(["name"], [["1e3"], ["007"], ["1,000"]])
    assert [line.strip() for line in table.splitlines()] == ["name", "1e3", "007", "1,000"]


def test_indentation_is_kept() -> None:
    assert text_table(["", "x"], [["a", "1"], ["  b", "2"]]).splitlines()[-1] == "  b  2"


def test_digits_are_chosen_by_the_caller() -> None:
    assert "0.12" in text_table(["x"], [[0.1234]], digits=2) and "0.1234" in markdown_table(["x"], [[0.1234]])


def test_markdown_escapes_its_column_mark_and_has_one_line_for_each_row() -> None:
    table = markdown_table(["a|b", "n"], [["x\ny|z", 1], [PureWindowsPath("out\\1.png"), 2]])
    head, rule, first, second = table.splitlines()
    assert head.replace(" ", "") == "|a\\|b|n|" and set(rule) <= set("|-: ") and rule.rstrip("|").endswith("-:")
    assert "x\\ny\\|z" in first and "out/1.png" in second


def test_a_table_without_rows_has_its_columns() -> None:
    assert text_table(["a", "b"], []).split() == ["a", "b"]
    assert markdown_table(["a", "b"], []).startswith("| a")


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="a row needs 2 cells"):
        text_table(["a", "b"], [["only one"]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (PureWindowsPath("C:\\out\\a.png"), "C:/out/a.png"),
        (PureWindowsPath("out", "a.png"), "out/a.png"),
        (PurePosixPath("odd\\name.png"), "odd\\name.png"),  # there a backslash is a character like any other
        (PurePosixPath("caf\udce9.png"), "caf\\xe9.png"),
        ("two\nlines\tand\x1b[31m", "two\\nlines\\tand\\x1b[31m"),
        ("\u2028 \ud800", "\\u2028 \\ud800"),
        ("naïve 図.png", "naïve 図.png"),
    ],
)
def test_names_can_be_printed_everywhere(name: str, text: str) -> None:
    assert printable(name) == text
    assert text_table(["name"], [[name]]).splitlines()[1] == text
    printable(name).encode()
