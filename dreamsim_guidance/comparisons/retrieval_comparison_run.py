"""The work of a comparison of nearest pictures: three networks, their lists, their agreement, a page and a sheet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.checkpoints.releases import find_release
from dreamsim_guidance.data.photographs import installed_photographs, photograph
from dreamsim_guidance.evaluation.metrics.named_metrics import embedding_metric, file_metric, load_metrics
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet, some
from dreamsim_guidance.files.atomic import plain, write_json, write_text, writing
from dreamsim_guidance.metric.photographs import default_metric
from dreamsim_guidance.metric.variants import VARIANTS
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.processes import default_device
from dreamsim_guidance.retrieval.evaluation.distances import chord_distances, gallery_distances
from dreamsim_guidance.retrieval.evaluation.labelled import pictures_below
from dreamsim_guidance.retrieval.index import Index
from dreamsim_guidance.retrieval.list_agreement import ListAgreement, list_agreement, nearest
from dreamsim_guidance.retrieval.members import files_of
from dreamsim_guidance.retrieval.pages import facts, figure, grid, page
from dreamsim_guidance.retrieval.sources.piece import path_of
from dreamsim_guidance.retrieval.texture import load_texture_network
from dreamsim_guidance.retrieval.thumbnails import thumbnails

if TYPE_CHECKING:
    from dreamsim_guidance.comparisons.retrieval_comparison import RetrievalComparison

__all__ = ["run"]

log = logging.getLogger(__name__)

_PARTS = 3
_SHEET_QUERIES = 4

Table = NDArray[np.float64]
"""Distances from queries to pictures, `(q, n)`; infinite from a picture to itself."""


@dataclass(frozen=True)
class _Search:
    """What is searched.

    files: all pictures, those of the gallery first. names: their paths, as an index has them. queries: positions in files.
    gallery: number of pictures in it.
    """

    files: list[Path]
    names: list[str]
    queries: NDArray[np.int64]
    gallery: int

    @property
    def places(self) -> NDArray[np.int64]:
        return np.arange(self.gallery)

    def without_queries(self, distances: Table) -> Table:
        """The distances with those of each query to itself made infinite."""
        return np.where(self.queries[:, None] == self.places[None], np.inf, distances)


def run(config: RetrievalComparison, folder: Path) -> dict[str, Any]:
    """Carry out `RetrievalComparison.run`."""
    index = None if config.index is None else Index.open(config.index, device=config.device)
    search = _search(config, index, folder)
    tables = dict(_tables(config, index, search))
    k = min(config.k, search.gallery - int((search.queries < search.gallery).any()))
    if k < 1:
        raise ValueError("a search needs at least two pictures.")
    lists = {name: nearest(table, k) for name, table in tables.items()}
    candidates = [search.gallery - int(query < search.gallery) for query in search.queries]
    agreement = list_agreement(lists, candidates, seed=config.seed)
    results = {"networks": list(tables), "queries": len(search.queries), "pictures": search.gallery}
    results["agreement"] = [asdict(pair) for pair in agreement]
    each = {
        name: [
            {
                "query": search.names[query],
                "files": [search.names[i] for i in row],
                "distances": table[q, row],
            }
            for q, (query, row) in enumerate(zip(search.queries, lists[name], strict=True))
        ]
        for name, table in tables.items()
    }
    write_json(folder / "comparison.json", {**results, "lists": each})
    write_text(
        folder / "page.html", page("Nearest pictures by three networks", _sections(search, tables, lists, agreement))
    )
    _draw(folder / "sheet.png", search, tables, lists)
    for pair in agreement:
        log.info("%s and %s have %.2f of %d pictures in common, by chance %.2f", *_numbers(pair))
    return plain(results)


def _numbers(pair: ListAgreement) -> tuple[str, str, float, int, float]:
    return pair.first, pair.second, pair.overlap.value * pair.k, pair.k, pair.chance * pair.k


def _search(config: RetrievalComparison, index: Index | None, folder: Path) -> _Search:
    if index is not None:
        files = files_of(index.paths, index.digests, folder / "pictures")
        gallery = [file for file in files if file is not None and file.is_file()]
        if len(gallery) != len(index):
            raise ValueError(
                f"{len(index) - len(gallery)} of {len(index)} pictures of the index '{config.index}' cannot be read (they have "
                "moved); embed them again with --prune, or compare a folder of pictures."
            )
    elif config.pictures is not None:
        gallery = pictures_below(config.pictures)
    else:
        gallery = _parts(folder / "pictures")
    if not gallery:
        raise ValueError(f"no pictures in '{config.pictures or config.index}'.")
    names = [path_of(file.absolute()) for file in gallery] if index is None else list(index.paths)
    if config.queries is None:
        return _Search(gallery, names, np.array(some(len(gallery), config.count)), len(gallery))
    queries = pictures_below(config.queries)
    if not queries:
        raise ValueError(f"no pictures in '{config.queries}'.")
    chosen = [queries[i] for i in some(len(queries), config.count)]
    place = {file.absolute(): i for i, file in enumerate(gallery)}  # a query in the gallery is not its own match
    others = [file for file in chosen if file.absolute() not in place]
    place.update((file.absolute(), len(gallery) + i) for i, file in enumerate(others))
    names += [path_of(file.absolute()) for file in others]
    return _Search(gallery + others, names, np.array([place[file.absolute()] for file in chosen]), len(gallery))


def _parts(folder: Path) -> list[Path]:
    """Nine parts of each installed photograph, written as files."""
    files = []
    for name in installed_photographs():
        image = photograph(name)
        height, width = (side // _PARTS for side in image.shape[-2:])
        for row in range(_PARTS):
            for column in range(_PARTS):
                file = folder / f"{name}_{row + 1}{column + 1}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                part = image[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
                save_image(part, file)
                files.append(file)
    return files


def _tables(config: RetrievalComparison, index: Index | None, search: _Search) -> Iterator[tuple[str, Table]]:
    device = config.device or default_device()
    if config.texture == "gram":
        network = load_texture_network(device)
        vectors = network.vectors(search.files).astype(np.float64)
        distances = chord_distances(vectors[search.queries], vectors[: search.gallery])
        yield f"texture: {network.name}", search.without_queries(distances)
    else:
        yield f"texture: {config.texture}", _named(config, config.texture, search)
    semantic = config.semantic or default_metric()
    yield f"semantic: {semantic}", _named(config, semantic, search)
    if index is None:
        metric = config.metric or _this_metric(semantic)
        yield f"this metric: {metric}", _named(config, metric, search)
        return
    vectors = index.vectors().astype(np.float64)
    if len(search.files) > search.gallery:
        embedding = embedding_metric(file_metric(index.metric, index.description.metric, cache=config.cache))
        if embedding is None:
            raise ValueError("the index's metric compares maps, and an index needs vectors.")
        vectors = np.concatenate([vectors, embedding.directions(search.files[search.gallery :])])
    distances = chord_distances(vectors[search.queries], vectors[: search.gallery])
    yield f"this metric: {index.description.metric}", search.without_queries(distances)


def _named(config: RetrievalComparison, name: str, search: _Search) -> Table:
    (metric,) = load_metrics([name], config.device, config.cache).values()
    blocks = gallery_distances(metric, search.files, search.queries, search.places)
    return search.without_queries(np.concatenate([table for _, table in blocks]))


def _this_metric(semantic: str) -> str:
    """The published ensemble where its files are on this machine, else a shipped metric other than the semantic network."""
    try:
        find_release(VARIANTS["ensemble"], offline=True)
    except (FileNotFoundError, ValueError):
        name = "pocket" if semantic != "pocket" else "pocket_robust"
        log.warning("%s stands in for the published ensemble, whose weights are not on this machine", name)
        return name
    return "ensemble"


def _sections(
    search: _Search, tables: Mapping[str, Table], lists: Mapping[str, NDArray[np.int64]], agreement: list[ListAgreement]
) -> Iterator[str]:
    yield facts({"queries": str(len(search.queries)), "pictures": str(search.gallery)})
    yield "<h2>How far the lists agree</h2>"
    yield facts(
        {
            f"{pair.first} and {pair.second}": f"{pair.overlap.value * pair.k:.1f} of {pair.k} in common "
            f"[{pair.overlap.low * pair.k:.1f}, {pair.overlap.high * pair.k:.1f}], by chance {pair.chance * pair.k:.1f}"
            for pair in agreement
        }
    )
    yield "<p class=note>Framed pictures are in the lists of all three networks.</p>"
    shown = {int(i) for rows in lists.values() for i in rows.flat} | {int(i) for i in search.queries}
    paths = {i: search.names[i] for i in sorted(shown)}
    pictures = thumbnails(paths.values())
    for q, query in enumerate(search.queries.tolist()):
        yield f"<h2>Query {q + 1}</h2>"
        yield grid([figure(paths[query], pictures[paths[query]], ["query"])])
        common = set.intersection(*(set(rows[q].tolist()) for rows in lists.values()))
        for name, rows in lists.items():
            yield f"<h3>{escape(name)}</h3>"
            yield grid(
                figure(
                    paths[i],
                    pictures[paths[i]],
                    [f"{rank}.  distance {tables[name][q, i]:.3g}"],
                    "keep" if i in common else "",
                )
                for rank, i in enumerate(rows[q].tolist(), 1)
            )


def _draw(file: Path, search: _Search, tables: Mapping[str, Table], lists: Mapping[str, NDArray[np.int64]]) -> None:
    rows, notes = {}, {}
    for q, query in enumerate(search.queries[:_SHEET_QUERIES].tolist()):
        for name, each in lists.items():
            title = f"{q + 1}  {name.partition(':')[0]}"
            chosen = each[q].tolist()
            rows[title] = [search.files[query], *(search.files[i] for i in chosen)]
            notes[title] = ["query", *(f"{tables[name][q, i]:.3g}" for i in chosen)]
    with writing(file) as temporary:
        contact_sheet(rows, notes, 96).save(temporary)
