"""FiftyOne's JSON format, written and read without the package: a folder with `metadata.json`, `samples.json` and `brain/`.

    fo.Dataset.from_dir("exported", dataset_type=fo.types.FiftyOneDataset, name="photos")

imports it, with the embeddings and the similarity run. A vector is stored as FiftyOne stores it: the bytes of a `.npy` file,
compressed by zlib, in base64.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.files.atomic import write_json, writing
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

__all__ = ["read_fiftyone_folder", "write_fiftyone_folder"]

_VERSION = "1.0.0"
"""The oldest FiftyOne that reads the folder; later ones migrate it."""
_LARGEST = 8 << 30
"""Bytes of the largest samples.json that is read."""


def write_fiftyone_folder(
    index: Index,
    folder: Path,
    name: str = "dreamsim",
    brain_key: str | None = None,
    pictures: Path | None = None,
    duplicates: float | None = None,
) -> Exported:
    """Write an index as a FiftyOne dataset in JSON; pictures stay where they are.

    folder: new or empty, or one that this function wrote, which is replaced.
    name: of the dataset, for FiftyOne; an import may give another one.
    brain_key, pictures, duplicates: as for `fiftyone_export`, and so are the fields.

    Raises ValueError for a folder that holds something else, a key that FiftyOne does not accept, and as `picture_samples`.
    """
    key = check_brain_key(brain_key or brain_key_of(index.description.metric))
    if folder.exists() and any(
        path.name not in ("metadata.json", "samples.json", "brain") for path in folder.iterdir()
    ):
        raise ValueError(f"'{folder}' holds other files; give a new or empty folder.")
    samples, others = picture_samples(index, pictures, duplicates)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").unlink(missing_ok=True)  # written last: without it the folder is no dataset
    with writing(folder / "samples.json") as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"samples": [')
        separator = ""
        for part, vectors in chunks(index, samples):
            for sample, vector in zip(part, vectors, strict=True):
                stream.write(separator + json.dumps(_document(sample, name, key, vector), allow_nan=False))
                separator = ",\n"
        stream.write("]}\n")
    for old in (folder / "brain").glob("*.json"):
        old.unlink()
    write_json(folder / "brain" / f"{key}.json", {"cls": f"{_SKLEARN}Index"})
    write_json(folder / "metadata.json", _metadata(name, key))
    return Exported(str(folder), key, len(samples), tuple(others))


def read_fiftyone_folder(folder: Path, tags: Sequence[str] = ()) -> list[str]:
    """Return the picture files of a dataset that FiftyOne exported as a `FiftyOneDataset`.

    Relative paths are relative to the folder.

    tags: only pictures with at least one of these tags.

    Raises FileNotFoundError for a missing folder or samples.json, ValueError for what is not FiftyOne's format, for a relative
    path that leaves the folder, for a dataset of other media than pictures, and if no picture is selected.
    """
    file, metadata = folder / "samples.json", folder / "metadata.json"
    if not file.is_file() or not metadata.is_file():
        raise FileNotFoundError(f"'{folder}' is no FiftyOne dataset in JSON: it lacks metadata.json or samples.json.")
    media = _object(metadata, _load(metadata)).get("media_type")
    if media not in (None, "image"):
        raise ValueError(f"'{folder}' holds media of type {media}, and pictures are needed.")
    samples = _object(file, _load(file)).get("samples")
    if not isinstance(samples, list):
        raise ValueError(f"'{file}' has no list of samples.")
    paths = []
    for number, sample in enumerate(samples):
        path = _object(file, sample).get("filepath")
        sample_tags = sample.get("tags") or []
        if not isinstance(path, str) or not path or not isinstance(sample_tags, list):
            raise ValueError(f"'{file}': sample {number} has no filepath, or tags that are no list.")
        if tags and not set(tags) & {tag for tag in sample_tags if isinstance(tag, str)}:
            continue
        place = Path(path)
        if not place.is_absolute():
            if ".." in place.parts:
                raise ValueError(f"'{file}': the path '{path}' leaves the folder of the dataset.")
            place = folder.absolute() / place
        paths.append(place.as_posix())
    if not paths:
        raise ValueError(f"no picture of '{folder}' is selected.")
    return paths


def _load(file: Path) -> Any:
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"'{file}' has {file.stat().st_size:,} bytes; at most {_LARGEST:,} are read.")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{file}' is not JSON ({error}).") from error


def _object(file: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"'{file}' is not FiftyOne's format: an object is needed, got {type(value).__name__}.")
    return value


def _document(sample: PictureSample, name: str, key: str, vector: NDArray[np.float32]) -> dict[str, Any]:
    identity = hashlib.sha256(f"{name}\0{sample.file.as_posix()}".encode(errors="surrogateescape")).hexdigest()
    return {
        "_id": {"$oid": identity[:24]},
        "filepath": sample.file.as_posix(),
        "tags": [],
        "metadata": {
            "_cls": "ImageMetadata",
            "size_bytes": sample.size,
            "mime_type": None,
            "width": sample.width,
            "height": sample.height,
            "num_channels": None,
        },
        "_media_type": "image",
        "_rand": int(identity[24:36], 16) / 16**12,
        **field_values(key, sample, {"$binary": {"base64": _packed(vector), "subType": "00"}}),
    }


def _packed(vector: NDArray[np.float32]) -> str:
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode()


_SKLEARN = "fiftyone.brain.internal.core.sklearn.SklearnSimilarity"


def _metadata(name: str, key: str) -> dict[str, Any]:
    now = {"$date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
    config = {
        "cls": f"{_SKLEARN}Config",
        "type": "similarity",
        "method": "sklearn",
        "embeddings_field": f"{key}_embedding",
        "model": None,
        "model_kwargs": None,
        "patches_field": None,
        "roi_field": None,
        "supports_prompts": False,
        "metric": "euclidean",
    }
    run = {"key": key, "version": _VERSION, "timestamp": now, "config": config, "results": None}
    return {
        "name": name,
        "version": _VERSION,
        "created_at": now,
        "last_modified_at": now,
        "media_type": "image",
        "sample_fields": list(_schema(key)),
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {key: run},
        "evaluations": {},
        "runs": {},
    }


def _schema(key: str) -> Iterator[dict[str, Any]]:
    """The fields of a sample, those that FiftyOne requires first."""
    yield _field("id", "ObjectId", db_field="_id")
    yield _field("filepath", "String")
    yield _field("tags", "List", subfield="fiftyone.core.fields.StringField")
    inside = [_field("size_bytes", "Int"), _field("mime_type", "String")]
    inside += [_field(part, "Int") for part in ("width", "height", "num_channels")]
    document = "fiftyone.core.metadata.ImageMetadata"
    yield _field("metadata", "EmbeddedDocument", embedded_doc_type=document, fields=inside)
    yield _field("_media_type", "String")
    yield _field("_rand", "Float")
    yield _field("_dataset_id", "ObjectId")
    yield _field("created_at", "DateTime", read_only=True)
    yield _field("last_modified_at", "DateTime", read_only=True)
    yield from (_field(title, kind.removesuffix("Field")) for title, kind in field_kinds(key).items())


def _field(name: str, kind: str, **others: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": name,
        "ftype": f"fiftyone.core.fields.{kind}Field",
        "embedded_doc_type": None,
        "subfield": None,
        "fields": [],
        "db_field": name,
        "description": None,
        "info": None,
        "read_only": False,
    }
    return described | others
