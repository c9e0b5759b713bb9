"""Malformed tables: the message names the file and the line to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamsim_guidance.data.readers.table import read_table

ROWS = [f"{i},cat {i}.png,3" for i in range(2000)]


def rows(file: Path, content: bytes) -> list[tuple[str, dict[str, str]]]:
    file.write_bytes(content)
    return list(read_table(file, ("id", "name"), ("votes", "group")))


def table(changed: dict[int, str], header: str = "id,name,votes", end: str = "\n") -> bytes:
    """A long table in which some lines, counted from the header as 1, are replaced."""
    lines = [header, *ROWS]
    for line, text in changed.items():
        lines[line - 1] = text
    return (end.join(lines) + end).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path, end: str, mark: bytes) -> None:
    table_rows = rows(tmp_path / "t.csv", mark + table({}, end=end))
    assert len(table_rows) == 2000
    assert table_rows[7] == (f"'{tmp_path}/t.csv', line 9", {"id": "7", "name": "cat 7.png", "votes": "3", "group": ""})


def test_columns_are_found_whatever_their_order_case_and_spaces(tmp_path: Path) -> None:
    table_rows = rows(tmp_path / "t.csv", b' Votes ,other,"NAME", ID\n3,x,"a, ""b"".png", 7 \n\n4,,c.png,8,,\n')
    assert [row for _, row in table_rows] == [
        {"id": "7", "name": 'a, "b".png', "votes": "3", "group": ""},
        {"id": "8", "name": "c.png", "votes": "4", "group": ""},
    ]


def test_a_cell_of_another_column_may_have_several_lines(tmp_path: Path) -> None:
    table_rows = rows(
        tmp_path / "t.csv", b'id,name,prompt\n1,a.png,"two\nlines"\n2,b.png,"5"" disk"\n3,c.png,5" disk\n'
    )
    assert [where.rpartition(" ")[2] for where, _ in table_rows] == ["2", "4", "5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table({1000: '998,"cat.png,3'}), "line 1000: .* look for a stray quote"),  # swallows the rest of the file
        (table({1000: '998,cat.png,"3'}), "line 1000: .* look for a stray quote"),
        (table({2001: '1999,"cat.png,3'}), "line 2001: .* look for a stray quote"),  # the last line
        (table({1000: '998,"cat.png,3', 1500: '1498,"cat.png,3'}), "line 1000: .* stray quote"),  # and another one
        (table({1000: '998,"cat.png,3', 1500: '1498,cat",3'}), "line 1000: name goes on in the next line, .* stray quote"),
        (table({1: 'id,"name,votes'}), "line 1: .* look for a stray quote"),
        (table({77: "75,cat.png"}), "line 77: 2 cells, but the first line names 3 columns"),
        (table({77: "75,cat.png,3,4"}), "line 77: 4 cells, but the first line names 3 columns"),
        (table({2001: "19"}), "line 2001: 1 cells, but the first line names 3 columns"),  # cut off
        (table({}, "id,name,votes,name"), "has the column name 2 times; keep one of them"),
        (table({}, "id,name,Votes, votes "), "has the column votes 2 times"),
        (table({}, "id;name;votes"), r"lacks the column id; it has id;name;votes"),
        (b"", "lacks the column id; it has nothing"),
        (b"\n\n", "lacks the column id; it has nothing"),
        (table({50: "48,c\0t.png,3"}), "line 50: a zero byte"),
        (table({}) + b"1,caf\xe9.png,3\n", r"line 2002: not UTF-8 text \(byte 0xe9\)"),
        (table({}).decode().encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (table({}).decode().encode("utf-16-le"), "line 1: a zero byte"),
        (table({2: "0," + "x" * (2 << 20) + ",3"}), "line 2: over 1,048,576 characters"),
        (table({2: "0," + "x" * (1 << 19) + ",3"}), r"line 2: .*field larger than field limit"),
    ],
)  # fmt: skip
def test_a_malformed_table_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"'{tmp_path}/t.csv'.*{message}"):
        rows(tmp_path / "t.csv", content)


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    assert rows(tmp_path / "t.csv", b"id,name") == []


def test_unused_columns_may_occur_twice(tmp_path: Path) -> None:
    assert len(rows(tmp_path / "t.csv", b"id,name,,x,x\n1,a.png,,2,3\n")) == 1
