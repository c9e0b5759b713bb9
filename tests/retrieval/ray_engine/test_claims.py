"""Claims of contents: one piece owns a digest, however often it is read."""

import hashlib

import pytest

from dreamsim_guidance.retrieval.ray_engine.claims import ClaimTable, part_of


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_the_first_piece_that_claims_a_content_owns_it():
    table = ClaimTable()
    assert table.claim(digest(0), "a")
    assert not table.claim(digest(0), "b")


def test_a_piece_that_is_read_again_gets_its_contents_again():
    table = ClaimTable()
    assert table.claim(digest(0), "a")
    assert table.claim(digest(0), "a")


def test_nobody_owns_what_the_index_has():
    table = ClaimTable()
    table.add_rows([digest(0)])
    assert not table.claim(digest(0), "a")
    assert table.claim(digest(1), "a")


@pytest.mark.parametrize("recent", [1, 2, 3, 16])
def test_claims_in_sorted_arrays_are_those_of_a_dictionary(recent):
    table = ClaimTable(recent)
    table.add_rows(digest(i) for i in range(20))
    owners: dict[str, str] = {}
    for i in range(200):
        number, piece = (i * 7) % 90, "ab"[i % 2]
        owner = "index" if number < 20 else owners.setdefault(digest(number), piece)
        assert table.claim(digest(number), piece) == (owner == piece), i
    assert len(table) == 90


@pytest.mark.parametrize("ending", ["00", "0000", "00" * 16])
def test_digests_that_end_in_zeros_are_told_apart(ending):
    table = ClaimTable(1)
    zeros = "ab" * ((32 - len(ending)) // 2) + ending + "0" * 32
    table.add_rows([zeros])
    assert not table.claim(zeros, "a")
    assert table.claim("cd" + zeros[2:], "a")


def test_every_digest_has_one_part_and_all_parts_are_used():
    assert {part_of(digest(i), 3) for i in range(50)} == {0, 1, 2}
