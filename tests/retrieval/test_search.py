from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from retrieval.synthetic_index import add_rows, clustered_rows, random_rows, synthetic_index

from dreamsim_guidance import DreamSim, load_image, save_image
from dreamsim_guidance.retrieval import Index, embed, neighbours
from dreamsim_guidance.retrieval.search import search


@pytest.fixture
def tiny(tmp_path: Path, metric: DreamSim) -> str:
    """A model file of a tiny random metric."""
    metric.save(tmp_path / "tiny.safetensors", source="random weights of a test", licence="none")
    return str(tmp_path / "tiny.safetensors")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures, each a little farther from the first one, and a copy of the fourth."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    first, last = torch.rand(2, 3, 40, 48)
    for i in range(10):
        save_image((first + (last - first) * i / 9)[None], folder / f"{i}.png")
    shutil.copy(folder / "3.png", folder / "copy of 3.png")
    return folder


@pytest.fixture
def index(tmp_path: Path, pictures: Path, tiny: str) -> Index:
    embed(pictures, tmp_path / "index", tiny, progress=False)
    return Index.open(tmp_path / "index")


def names(index: Index, *arguments: object, **options: object) -> list[str]:
    return [Path(match.path).stem for match in index.search(*arguments, **options)]  # type: ignore[arg-type]


def test_distances_are_those_of_the_metric(index: Index, pictures: Path, metric: DreamSim) -> None:
    query = torch.rand(1, 3, 30, 30)
    matches = search(index, query, k=20)
    assert len(matches) == 10
    assert [match.distance for match in matches] == sorted(match.distance for match in matches)
    for match in matches:
        # the tolerance is that of vectors in float16
        assert match.distance == pytest.approx(float(metric(query, load_image(match.path))), abs=2e-4)


def test_a_picture_of_the_index_is_found_at_zero(index: Index, pictures: Path) -> None:
    match, second, *_ = search(index, pictures / "5.png")
    assert match.path == str(pictures / "5.png") and match.distance == 0 and match.copies == ()
    assert second.distance > 0


def test_copies_are_one_match(index: Index, pictures: Path) -> None:
    match = search(index, pictures / "copy of 3.png", k=1)[0]
    assert match.path == str(pictures / "3.png") and match.copies == (str(pictures / "copy of 3.png"),)
    assert len(search(index, pictures / "0.png", k=100)) == 10


def test_what_is_in_the_index_needs_no_metric(
    index: Index, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "metric", property(lambda self: pytest.fail("the metric was loaded")))
    shutil.copy(pictures / "4.png", tmp_path / "another name.png")
    (pictures / "6.png").unlink()
    monkeypatch.chdir(pictures)
    assert names(index, "5.png", k=1) == ["5"]  # by its content
    assert names(index, tmp_path / "another name.png", k=1) == ["4"]
    assert names(index, "6.png", k=1) == ["6"]  # by its path: the file has gone


def test_a_changed_file_is_searched_by_its_new_content(index: Index, pictures: Path) -> None:
    shutil.copy(pictures / "9.png", pictures / "0.png")
    assert names(index, pictures / "0.png", k=1) == ["9"]


def test_several_queries_by_mean_and_minimum(index: Index, pictures: Path) -> None:
    ends = [pictures / "0.png", pictures / "9.png"]
    assert set(names(index, ends, k=2, combine="min")) == {"0", "9"}
    assert names(index, ends, k=1, combine="mean")[0] not in "09"
    batch = torch.cat([load_image(file) for file in ends])
    assert set(names(index, batch, k=2, combine="min")) == {"0", "9"}


def test_unwanted_pictures_push_away(index: Index, pictures: Path) -> None:
    plain = names(index, pictures / "4.png", k=10)
    away = names(index, pictures / "4.png", k=10, unlike=pictures / "9.png")
    assert away.index("8") > plain.index("8") or away.index("0") < plain.index("0")
    match = search(index, pictures / "4.png", k=1, unlike=[pictures / "9.png"])[0]
    assert match.score < match.distance


def test_a_mask_is_what_the_metric_makes_of_it(index: Index, pictures: Path, metric: DreamSim) -> None:
    mask = torch.zeros(1, 1, 40, 48)
    mask[..., 24:] = 1
    image = load_image(pictures / "2.png")
    rows = index.vectors()
    query = metric.directions(image, mask).numpy()
    expected = sorted(0.5 * np.square(rows - query).sum(1))[0]
    match = search(index, pictures / "2.png", k=1, mask=mask)[0]
    assert match.distance == pytest.approx(expected, abs=1e-5) and match.distance > 0
    outside = image.clone()
    outside[..., :24] = 0  # what the mask leaves out has no influence
    assert search(index, outside, k=1, mask=mask)[0].distance == pytest.approx(match.distance, abs=1e-5)
    half = mask[..., ::2, ::2]
    assert search(index, image, k=1, mask=half)[0].distance > 0  # of another size, but with the same shape


@pytest.mark.parametrize("combine", ["mean", "min"])
def test_exact_search_is_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combine: str) -> None:
    monkeypatch.setattr(neighbours, "_CHUNK", 400)  # several chunks
    index = synthetic_index(tmp_path / "index", random_rows(333, 8))
    rows = index.vectors()
    chosen = ["/pictures/5.png", "/pictures/17.png"]
    distances = 1 - rows @ rows[[5, 17]].T.astype(np.float64)
    expected = np.argsort(distances.mean(1) if combine == "mean" else distances.min(1))[:20]
    matches = search(index, chosen, k=20, combine=combine)  # type: ignore[arg-type]
    if combine == "min":
        assert {match.row for match in matches[:2]} == {5, 17}
        assert [match.row for match in matches[2:]] == expected[2:].tolist()
    else:
        assert [match.row for match in matches] == expected.tolist()


def test_many_copies_do_not_hide_the_rest(tmp_path: Path) -> None:
    vectors = np.concatenate([np.repeat(random_rows(1, 8), 90, axis=0), random_rows(10, 8, 1)])
    index = synthetic_index(tmp_path / "index", vectors, ["same"] * 90 + [str(i) for i in range(10)])
    matches = search(index, "/pictures/50.png", k=5)
    assert [len(match.copies) for match in matches] == [89, 0, 0, 0, 0]
    assert len({match.path for match in matches}) == 5


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index of 1,500 clustered vectors with an approximate index of its own."""
    folder = tmp_path_factory.mktemp("large") / "index"
    index = synthetic_index(folder, clustered_rows(1500, 16, 40))
    neighbours.build(index.table)
    return folder


def test_approximate_search_finds_what_exact_search_finds(large: Path) -> None:
    index = Index.open(large)
    shared = 0
    for row in range(0, 1500, 100):
        exact = search(index, f"/pictures/{row}.png", k=10)
        approximate = search(index, f"/pictures/{row}.png", k=10, exact_up_to=0)
        shared += len({match.row for match in exact} & {match.row for match in approximate})
        # distances are exact, whatever found the candidates
        distances = {match.row: match.distance for match in exact}
        assert all(distances.get(match.row, match.distance) == match.distance for match in approximate)
    assert shared >= 0.95 * 150


@pytest.mark.parametrize("combine", ["mean", "min"])
def test_approximate_search_takes_several_queries_and_unwanted_ones(large: Path, combine: str) -> None:
    index = Index.open(large)
    options: dict[str, object] = {"k": 10, "combine": combine, "unlike": ["/pictures/900.png"]}
    queries = ["/pictures/1.png", "/pictures/2.png"]
    exact, approximate = (
        {match.row for match in search(index, queries, exact_up_to=limit, **options)}  # type: ignore[arg-type]
        for limit in (10_000, 0)
    )
    assert len(exact & approximate) >= 9


def test_more_matches_than_the_visited_cells_hold(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours.approximate_rows, "__defaults__", (1, 1))  # one cell
    assert len(search(Index.open(large), "/pictures/3.png", k=1200, exact_up_to=0)) == 1200


def test_the_approximate_index_is_built_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = synthetic_index(tmp_path / "index", clustered_rows(400, 8, 10))
    messages: list[str] = []
    search(index, "/pictures/3.png", exact_up_to=100, tell=messages.append)
    assert len(messages) == 1 and "building the approximate index (ivf-pq) of 400 pictures" in messages[0]
    search(Index.open(tmp_path / "index"), "/pictures/3.png", exact_up_to=100, tell=messages.append)
    assert len(messages) == 1

    # rows that come later are found at once, and join the index when they are many
    add_rows(tmp_path / "index", random_rows(30, 8, 5))
    later = Index.open(tmp_path / "index")
    assert neighbours.neighbour_index(later.table) == neighbours.NeighbourIndex("IVF_PQ", 400, 30)
    assert search(later, "/pictures/410.png", k=1, exact_up_to=100, tell=messages.append)[0].row == 410
    assert len(messages) == 1
    add_rows(tmp_path / "index", random_rows(30, 8, 6))
    later = Index.open(tmp_path / "index")
    assert search(later, "/pictures/450.png", k=1, exact_up_to=100, tell=messages.append)[0].row == 450
    assert "adding 60 pictures to the approximate index of 400" in messages[1]
    joined = neighbours.neighbour_index(later.table)
    assert joined is not None and (joined.rows, joined.missing) == (460, 0)


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = synthetic_index(tmp_path / "index", clustered_rows(300, 8, 10))

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("lance error: LanceError(IO): Permission denied")

    monkeypatch.setattr(type(index.table), "create_index", full)
    messages: list[str] = []
    assert search(index, "/pictures/7.png", k=1, exact_up_to=0, tell=messages.append)[0].row == 7
    assert "cannot be written" in messages[-1] and "goes on without the change" in messages[-1]
    with pytest.raises(OSError, match="cannot be written"):
        index.build()


def test_small_tables_are_searched_exactly_whatever_the_limit(tmp_path: Path) -> None:
    index = synthetic_index(tmp_path / "index", random_rows(50, 8))
    assert search(index, "/pictures/7.png", k=1, exact_up_to=0)[0].row == 7
    with pytest.raises(ValueError, match="at least 256 rows, got 50"):
        neighbours.build(index.table)


def test_hnsw_is_a_kind_of_approximate_index(tmp_path: Path) -> None:
    index = synthetic_index(tmp_path / "index", clustered_rows(400, 8, 10))
    assert neighbours.build(index.table, "ivf-hnsw").kind == "IVF_HNSW_SQ"
    exact = {match.row for match in search(index, "/pictures/3.png", k=10)}
    assert len(exact & {match.row for match in search(index, "/pictures/3.png", k=10, exact_up_to=0)}) >= 9


@pytest.mark.parametrize("dimension", [7, 16, 384, 1792, 3840])
def test_vectors_are_encoded_in_equal_parts(dimension: int) -> None:
    parts = neighbours.sub_vectors(dimension)
    assert dimension % parts == 0 and 1 <= parts <= max(1, dimension // 16)
    assert dimension < 16 or parts >= dimension / 32


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_searched_is_refused(index: Index, pictures: Path, tmp_path: Path) -> None:
    query = pictures / "0.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for options, message in (
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": -3}, "k must be at least 1, got -3"),
        ({"combine": "max"}, "unknown way to combine distances 'max'"),
        ({"exact_up_to": -1}, "exact_up_to must be at least 0"),
        ({"mask": torch.ones(1, 1, 48, 40)}, "got 40 x 48 for a picture of 48 x 40 pixels"),
        ({"mask": torch.ones(40, 48)}, r"a mask must have shape \(1, 1, h, w\), got \(40, 48\)"),
        ({"mask": torch.zeros(1, 1, 40, 48)}, "leaves out every pixel"),
        ({"mask": 2 * torch.ones(1, 1, 40, 48)}, r"the mask must lie in \[0, 1\]"),
        ({"unlike": tmp_path / "broken.png"}, "cannot be read as an image"),
    ):
        with pytest.raises(ValueError, match=message):
            search(index, query, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one query is needed"):
        search(index, [])
    with pytest.raises(ValueError, match=r"broken.png' cannot be read as an image"):
        search(index, tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match=r"'nowhere.png' is neither a picture file nor a picture of this index"):
        search(index, "nowhere.png")
    with pytest.raises(FileNotFoundError, match="is neither a picture file"):
        search(index, pictures)
    with pytest.raises(ValueError, match="must have 3 channels"):
        search(index, torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError, match="must be floating point"):
        search(index, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        search(index, 3 * torch.rand(1, 3, 8, 8))


def test_an_empty_index_is_refused(tmp_path: Path) -> None:
    index = synthetic_index(tmp_path / "index", np.empty((0, 4), np.float32))
    with pytest.raises(ValueError, match="is empty; add pictures with `dreamsim-guidance embed`"):
        search(index, torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["it's.png", "a' OR '1'='1.png", "100%.png", "ü ñ.png", "line\nbreak.png"])
def test_names_with_special_characters_are_found(tmp_path: Path, tiny: str, name: str) -> None:
    folder = tmp_path / "special"
    folder.mkdir()
    for other in ("a.png", "b.png", name):
        save_image(torch.rand(1, 3, 16, 16), folder / other)
    embed(folder, tmp_path / "index", tiny, progress=False)
    index = Index.open(tmp_path / "index")
    (folder / name).unlink()  # by its path alone
    match = search(index, folder / name, k=1)[0]
    assert match.distance == 0 and match.path == index.paths[match.row] and match.path.endswith("png")
