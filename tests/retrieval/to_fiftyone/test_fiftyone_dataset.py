"""FiftyOne itself: an index exported into its database, and a selection imported."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamsim_guidance.cli import main
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.fiftyone_dataset import fiftyone_export, fiftyone_paths
from dreamsim_guidance.retrieval.fiftyone_folder import read_fiftyone_folder, write_fiftyone_folder
from dreamsim_guidance.retrieval.fiftyone_samples import field_kinds

warm = pytest.mark.filterwarnings("ignore")  # FiftyOne and its dependencies give warnings of their own


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


@warm
def test_the_app_offers_the_similarity_and_it_sorts_as_the_metric(package: Any, index: Index) -> None:
    written = fiftyone_export(index, "photos", duplicates=1e-4)
    assert (written.place, written.brain_key, written.pictures, written.left_out) == (
        "photos",
        "dreamsim_pocket",
        7,
        (),
    )
    dataset = package.load_dataset("photos")
    assert dataset.persistent and dataset.list_brain_runs(type="similarity") == ["dreamsim_pocket"]
    vectors = index.vectors()
    for row, path in enumerate(index.paths[:2]):
        query = dataset[path]
        assert np.allclose(query["dreamsim_pocket_embedding"], vectors[row])
        nearest = dataset.sort_by_similarity(query.id, brain_key="dreamsim_pocket", dist_field="distance")
        distances = 1 - vectors @ vectors[row]
        in_order = [distances[index.paths.index(sample.filepath)] for sample in nearest]
        assert np.allclose(in_order, np.sort(distances), atol=1e-6)
        assert np.allclose([sample["distance"] ** 2 / 2 for sample in nearest], np.sort(distances), atol=1e-6)


@warm
def test_samples_have_the_fields_of_the_index(package: Any, index: Index) -> None:
    fiftyone_export(index, "fields", duplicates=1e-4)
    samples = {Path(sample.filepath).name: sample for sample in package.load_dataset("fields")}
    assert samples["0.png"].copies == samples["copy.png"].copies == 2 and samples["1.png"].copies == 1
    assert samples["0.png"].digest == samples["copy.png"].digest != samples["1.png"].digest
    groups = {name: sample.dreamsim_pocket_near_duplicates for name, sample in samples.items()}
    assert {name: group for name, group in groups.items() if group is not None} == {"0.png": 1, "copy.png": 1}
    assert samples["0.png"].dreamsim_pocket_nearest_distance == 0 < samples["1.png"].dreamsim_pocket_nearest_distance
    metadata = samples["1.png"].metadata
    assert (metadata.width, metadata.height) == (32, 24)
    assert metadata.size_bytes == Path(samples["1.png"].filepath).stat().st_size


@warm
def test_a_second_export_adds_a_key_and_keeps_tags_and_fields(package: Any, index: Index, pictures: Path) -> None:
    dataset = package.Dataset("both", persistent=True)
    existing = package.Sample(filepath=(pictures / "1.png").as_posix(), tags=["mine"], stars=5)
    dataset.add_sample(existing)
    dataset.add_sample(package.Sample(filepath="/elsewhere/other.png"))
    fiftyone_export(index, "both", duplicates=1e-4)
    fiftyone_export(index, "both", brain_key="second")
    fiftyone_export(index, "both", brain_key="second")  # again: the run is replaced
    dataset = package.load_dataset("both")
    assert dataset.list_brain_runs() == ["dreamsim_pocket", "second"]
    assert len(dataset) == 8  # seven of the index, and the one elsewhere
    sample = dataset[(pictures / "1.png").as_posix()]
    assert (sample.tags, sample.stars, sample.copies) == (["mine"], 5, 1)
    assert np.array_equal(sample["second_embedding"], sample["dreamsim_pocket_embedding"])
    copy = dataset[(pictures / "copy.png").as_posix()]
    assert (copy.dreamsim_pocket_near_duplicates, copy.second_near_duplicates) == (1, None)


@warm
def test_a_key_is_replaced_also_by_an_index_of_fewer_pictures(
    package: Any, index: Index, pictures: Path, tmp_path: Path
) -> None:
    embed([pictures / "1.png", pictures / "2.png"], tmp_path / "index", "pocket", device="cpu")
    fiftyone_export(index, "fewer", "k", duplicates=1e-4)
    fiftyone_export(Index.open(tmp_path / "index"), "fewer", "k")
    dataset = package.load_dataset("fewer")
    assert len(dataset) == 7  # whoever adds tags to samples does not lose them
    assert names(dataset.exists("k_embedding").values("filepath")) == ["1.png", "2.png"]
    assert dataset.count("k_near_duplicates") == 0
    nearest = dataset.sort_by_similarity(dataset[(pictures / "2.png").as_posix()].id, brain_key="k")
    assert names(nearest.values("filepath")) == ["2.png", "1.png"]


@warm
def test_a_selection_by_tag_or_view_comes_back(package: Any, index: Index, tmp_path: Path, capsys: Any) -> None:
    fiftyone_export(index, "selected")
    dataset = package.load_dataset("selected")
    assert names(fiftyone_paths("selected")) == names(index.paths)
    dataset.limit(3).tag_samples("good")
    dataset.save_view("later", dataset.skip(5))
    assert names(fiftyone_paths("selected", tags=["good"])) == names(index.paths)[:3]
    assert names(fiftyone_paths("selected", view="later")) == names(index.paths)[5:]
    with pytest.raises(ValueError, match="no saved view 'x'; known: later"):
        fiftyone_paths("selected", view="x")
    with pytest.raises(ValueError, match="no picture of the dataset 'selected' is selected"):
        fiftyone_paths("selected", tags=["bad"])
    with pytest.raises(ValueError, match="no FiftyOne dataset 'absent'; known: "):
        fiftyone_paths("absent")
    file = tmp_path / "good.csv"
    assert main(["fiftyone", "import", "selected", "--tag", "good", "--to", str(file)]) == 0
    assert capsys.readouterr().out == "3 pictures\n"
    again = tmp_path / "again"
    assert embed(file, again, "pocket", device="cpu", outside=True).embedded == 3
    assert names(Index.open(again).paths) == names(index.paths)[:3]


@warm
def test_fiftyone_imports_the_written_folder_with_its_similarity(package: Any, index: Index, tmp_path: Path) -> None:
    write_fiftyone_folder(index, tmp_path / "photos", duplicates=1e-4)
    kind = package.types.FiftyOneDataset
    dataset = package.Dataset.from_dir(dataset_dir=str(tmp_path / "photos"), dataset_type=kind, name="imported")
    fiftyone_export(index, "exported", duplicates=1e-4)
    other = package.load_dataset("exported")
    assert dataset.list_brain_runs() == other.list_brain_runs()
    assert set(dataset.get_field_schema()) == set(other.get_field_schema())
    for a, b in zip(dataset, other, strict=True):
        for field in ("filepath", *(title for title in field_kinds("dreamsim_pocket") if "embedding" not in title)):
            assert a[field] == b[field]
        assert np.array_equal(a["dreamsim_pocket_embedding"], b["dreamsim_pocket_embedding"])
        assert (a.metadata.width, a.metadata.size_bytes) == (b.metadata.width, b.metadata.size_bytes)
    orders = [
        d.sort_by_similarity(d[index.paths[1]].id, brain_key="dreamsim_pocket").values("filepath")
        for d in (dataset, other)
    ]
    assert orders[0] == orders[1]


@warm
def test_a_folder_that_fiftyone_exported_is_read(package: Any, index: Index, tmp_path: Path) -> None:
    fiftyone_export(index, "written")
    dataset = package.load_dataset("written")
    dataset.limit(2).tag_samples("good")
    dataset.export(export_dir=str(tmp_path / "out"), dataset_type=package.types.FiftyOneDataset, export_media=False)
    assert names(read_fiftyone_folder(tmp_path / "out")) == names(index.paths)
    assert names(read_fiftyone_folder(tmp_path / "out", ["good"])) == names(index.paths)[:2]


def test_without_the_package_the_error_says_how_to_install_it(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import_module = importlib.import_module

    def without(name: str) -> types.ModuleType:
        if name.startswith("fiftyone"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return import_module(name)

    monkeypatch.setattr("dreamsim_guidance.retrieval.fiftyone_dataset.importlib.import_module", without)
    assert main(["fiftyone", "export", str(index.folder), "--dataset", "photos"]) == 2
    assert 'pip install "dreamsim-guidance[fiftyone]"' in capsys.readouterr().err


def test_a_database_that_does_not_answer_is_one_line(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse() -> None:
        raise RuntimeError("no mongod\nhere")

    stub = types.SimpleNamespace(list_datasets=refuse)
    import_module = importlib.import_module
    monkeypatch.setattr(
        "dreamsim_guidance.retrieval.fiftyone_dataset.importlib.import_module",
        lambda name: stub if name.startswith("fiftyone") else import_module(name),
    )
    assert main(["fiftyone", "export", str(index.folder), "--dataset", "photos"]) == 2
    assert "cannot be reached (no mongod here); start MongoDB" in capsys.readouterr().err
