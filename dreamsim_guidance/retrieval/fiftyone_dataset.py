"""An index in FiftyOne's database, and a selection made in its App back: with the package `fiftyone`.

    pip install "dreamsim-guidance[fiftyone]"

Each picture becomes a sample with its embedding in a field. A similarity run of FiftyOne's brain over this field gets a key,
which the App offers for sorting by similarity. The run uses the Euclidean distance, sqrt(2 d) for the metric's distance d, and
therefore sorts as the metric does; for the cosine distance, which is its default, FiftyOne subtracts the mean of all embeddings
first, and that changes the order. A second index over the same pictures adds another field and another key to the same
samples, so that metrics can be compared side by side.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamsim_guidance.retrieval.fiftyone_samples import (
    Exported,
    PictureSample,
    brain_key_of,
    check_brain_key,
    chunks,
    field_kinds,
    field_values,
    picture_samples,
)

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.index import Index

__all__ = ["fiftyone_export", "fiftyone_paths"]


def fiftyone_export(
    index: Index,
    name: str,
    brain_key: str | None = None,
    pictures: Path | None = None,
    duplicates: float | None = None,
) -> Exported:
    """Write an index into a persistent FiftyOne dataset with its similarity run.

    Samples have the fields digest and copies, and with the key and an underscore in front, nearest_distance (to the nearest
    other picture), near_duplicates (number of the group) and embedding. Where the dataset exists, pictures are matched by file,
    new ones are added, and a run of the same key is replaced with its fields, also of pictures that the index does not have;
    other fields, tags and runs stay.

    name: of the dataset.
    brain_key: under which the App lists the similarity; by default `dreamsim_` and the name of the metric.
    pictures, duplicates: as for `picture_samples`.

    Raises ModuleNotFoundError without the package, OSError if its database cannot be reached; ValueError for a key that
    FiftyOne does not accept, for a dataset of other media than pictures, and as `picture_samples`.
    """
    key = check_brain_key(brain_key or brain_key_of(index.description.metric))
    package, brain = _connected(), _package("fiftyone.brain")
    samples, others = picture_samples(index, pictures, duplicates)
    dataset = _dataset(package, name)
    field = f"{key}_embedding"
    if key in dataset.list_brain_runs():
        dataset.delete_brain_run(key)
    for title, kind in field_kinds(key).items():
        if not dataset.has_field(title):  # a field that is None everywhere has no type to be inferred from
            dataset.add_sample_field(title, getattr(package, kind))
        elif title.startswith(f"{key}_"):
            dataset.clear_sample_field(title)
    places = dict(zip(dataset.values("filepath"), dataset.values("id"), strict=True))
    for part, vectors in chunks(index, samples):
        values = [field_values(key, sample, vector) for sample, vector in zip(part, vectors, strict=True)]
        new = [i for i, sample in enumerate(part) if sample.file.as_posix() not in places]
        dataset.add_samples([_sample(package, part[i], values[i]) for i in new], progress=False)
        old = sorted(set(range(len(part))) - set(new))
        for title in values[0] if old else ():
            by_id = {places[part[i].file.as_posix()]: values[i][title] for i in old}
            dataset.set_values(title, by_id, key_field="id")
    options = {"backend": "sklearn", "metric": "euclidean"}
    brain.compute_similarity(dataset.exists(field), embeddings=field, brain_key=key, **options)
    return Exported(dataset.name, key, len(samples), tuple(others))


def fiftyone_paths(name: str, tags: Sequence[str] = (), view: str | None = None) -> list[str]:
    """Return the files of a FiftyOne dataset's pictures, or of a selection.

    name: of the dataset.
    tags: only pictures with at least one of these tags.
    view: only pictures of this saved view, in its order.

    Raises ModuleNotFoundError without the package, OSError if its database cannot be reached; ValueError for a dataset or view
    that does not exist, a dataset of other media than pictures, and an empty selection.
    """
    package = _connected()
    if not package.dataset_exists(name):
        raise ValueError(
            f"there is no FiftyOne dataset '{name}'; known: {', '.join(package.list_datasets()) or 'none'}."
        )
    dataset = package.load_dataset(name)
    if dataset.media_type not in (None, "image"):
        raise ValueError(f"the dataset '{name}' holds media of type {dataset.media_type}, and pictures are needed.")
    selection = dataset
    if view is not None:
        if view not in dataset.list_saved_views():
            known = ", ".join(dataset.list_saved_views()) or "none"
            raise ValueError(f"the dataset '{name}' has no saved view '{view}'; known: {known}.")
        selection = dataset.load_saved_view(view)
    if tags:
        selection = selection.match_tags(list(tags))
    paths = [str(path) for path in selection.values("filepath")]
    if not paths:
        raise ValueError(f"no picture of the dataset '{name}' is selected.")
    return paths


def _dataset(package: Any, name: str) -> Any:
    if not package.dataset_exists(name):
        return package.Dataset(name, persistent=True)
    dataset = package.load_dataset(name)
    if dataset.media_type not in (None, "image"):
        raise ValueError(f"the dataset '{name}' holds media of type {dataset.media_type}; give another name.")
    dataset.persistent = True
    return dataset


def _sample(package: Any, sample: PictureSample, values: dict[str, Any]) -> Any:
    metadata = package.ImageMetadata(size_bytes=sample.size, width=sample.width, height=sample.height)
    return package.Sample(filepath=sample.file.as_posix(), metadata=metadata, **values)


def _connected() -> Any:
    """The package, once its database answers."""
    package = _package()
    try:
        package.list_datasets()
    except Exception as error:  # the package and MongoDB's driver have many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"FiftyOne's database cannot be reached ({reason}); start MongoDB and name it by FIFTYONE_DATABASE_URI, or use "
            "the JSON format, which needs none."
        ) from error
    return package


def _package(module: str = "fiftyone") -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "fiftyone":
            raise
        raise ModuleNotFoundError(
            'a FiftyOne dataset needs fiftyone, which is not installed; pip install "dreamsim-guidance[fiftyone]". Its JSON '
            "format can be written and read without it.",
            name=error.name,
        ) from error
