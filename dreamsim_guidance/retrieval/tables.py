"""The folder of an index on disk: a LanceDB database and `index.json`, and how rows get into it.

    index.json    what made the index: metric, fingerprint, dimension, reading, sources
    pictures      path, digest, width, height, bytes, vector, stamp: one row per path
    broken        path, reason, stamp: pictures that cannot be read
    finished      container, stamp, count: shards and tables that were read to the end, and how many pictures they hold

Equal digests have equal vectors. The stamp of a row tells whether its picture may have changed since. Rows are replaced by
removing the old ones first: a kill in between loses rows that are out of date anyway, and never leaves two for one path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.files.cache import locked
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.retrieval.description import Description, check_place
from dreamsim_guidance.retrieval.embedder import Broken, Row
from dreamsim_guidance.retrieval.extras import need

__all__ = [
    "IndexFolder",
    "Known",
    "arrow_rows",
    "conditions",
    "pictures_schema",
    "readable",
    "vectors_of",
]

_KEPT_VERSIONS = timedelta(hours=1)
"""Readers may go on with the table as it was when they opened it for so long."""
_NAMES = 2000
"""Paths in one condition."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an index holds about a path: a picture's digest, or the reason why it is broken."""

    stamp: str
    digest: str = ""
    reason: str = ""


class IndexFolder:
    """The tables of an index, for reading and writing. Several processes may write at the same time, in turns.

    folder: of an existing index.

    Raises as `Description.read`, ValueError for a table with another schema, and ModuleNotFoundError without lancedb.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.description = Description.read(self.folder)
        self._database = need("lancedb").connect(os.fspath(self.folder))
        self.pictures = self._table("pictures", pictures_schema(self.description.dimension))
        self.broken = self._table("broken", _schema(path="string", reason="string", stamp="string"))
        self.finished = self._table("finished", _schema(container="string", stamp="string", count="int64"))

    @classmethod
    def create(cls, folder: str | os.PathLike[str], description: Description) -> IndexFolder:
        """Make an empty index in a folder that is absent or empty.

        Raises FileExistsError for a folder that holds other files, OSError for one that cannot be written.
        """
        path = Path(folder)
        check_place(path)
        path.mkdir(parents=True, exist_ok=True)
        description.write(path)
        return cls(path)

    def known(self) -> dict[str, Known]:
        """What the tables hold about every path."""
        broken = self._all(self.broken, "path", "stamp", "reason")
        pictures = self._all(self.pictures, "path", "stamp", "digest")
        known = {path: Known(stamp, reason=reason) for path, stamp, reason in broken}
        known.update((path, Known(stamp, digest)) for path, stamp, digest in pictures)
        return known

    def read_containers(self) -> dict[str, tuple[str, int]]:
        """The stamp of every container that was read to the end, and how many pictures it holds."""
        return {
            container: (stamp, count)
            for container, stamp, count in self._all(self.finished, "container", "stamp", "count")
        }

    def rows_with(self, digests: Iterable[str]) -> dict[str, Row]:
        """One row for each of the digests that the table has."""
        rows: dict[str, Row] = {}
        for condition in conditions("digest", digests):
            with readable(self.folder):
                self.pictures.checkout_latest()
                table = self.pictures.search().where(condition).limit(None).to_arrow()
            vectors = vectors_of(table)
            for i, fields in enumerate(table.drop_columns(["vector"]).to_pylist()):
                rows[fields["digest"]] = Row(**fields, vector=vectors[i])
        return rows

    def write(
        self,
        rows: Sequence[Row] = (),
        broken: Sequence[Broken] = (),
        finished: Mapping[str, tuple[str, int]] | None = None,
        replaced: Iterable[str] = (),
    ) -> None:
        """Append rows; when the call returns they are on disk.

        replaced: paths of rows and broken pictures to be removed before.
        finished: containers that were read to the end, with their stamps and numbers of pictures.

        Raises OSError where the disk is full or the folder cannot be written.
        """
        with locked(self.folder / ".write"):
            self.remove(replaced)
            if rows:
                _add(self.pictures, arrow_rows(rows, self.description.dimension))
            if broken:
                columns = {name: [getattr(row, name) for row in broken] for name in ("path", "reason", "stamp")}
                _add(self.broken, need("pyarrow").table(columns, schema=self.broken.schema))
            if finished:
                for condition in conditions("container", finished):
                    _delete(self.finished, condition)
                stamps, counts = zip(*finished.values(), strict=True)
                columns = {"container": list(finished), "stamp": list(stamps), "count": list(counts)}
                _add(self.finished, need("pyarrow").table(columns, schema=self.finished.schema))

    def remove(self, paths: Iterable[str]) -> None:
        """Remove the rows of these paths from `pictures` and `broken`."""
        for condition in conditions("path", paths):
            for table in (self.pictures, self.broken):
                _delete(table, condition)

    def compact(self) -> None:
        """Join the small files that many short writes leave, and remove those that were joined an hour ago or earlier."""
        with locked(self.folder / ".write"), readable(self.folder):
            for table in (self.pictures, self.broken, self.finished):
                table.checkout_latest()
                table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def _all(self, table: Any, *names: str) -> Iterable[tuple[Any, ...]]:
        """Some columns of all rows."""
        with readable(self.folder):
            table.checkout_latest()
            columns = table.search().select(list(names)).limit(None).to_arrow()
        return zip(*(columns.column(name).to_pylist() for name in names), strict=True)

    def _table(self, name: str, schema: Any) -> Any:
        with readable(self.folder):
            try:
                table = self._database.open_table(name)
            except (ValueError, FileNotFoundError):  # it is not there
                table = self._database.create_table(name, schema=schema)
        missing = set(schema.names) - set(table.schema.names)
        if missing or (name == "pictures" and table.schema.field("vector").type != schema.field("vector").type):
            raise ValueError(
                f"the table '{name}' in '{printable(self.folder)}' is not of this index: its columns are "
                f"{', '.join(table.schema.names)}; restore the folder, or make the index again."
            )
        return table


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn what LanceDB raises for damaged files into an OSError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(
            f"a table in '{printable(folder)}' cannot be read or written ({_short(error)}); make room and set permissions, or "
            "restore the folder, or make the index again."
        ) from error


def _short(error: Exception) -> str:
    """The first line of LanceDB's message, without the place in its source."""
    return re.sub(r",? ?/[\w./-]+\.rs:\d+:\d+", "", (str(error).splitlines() or [type(error).__name__])[0])


def pictures_schema(dimension: int) -> Any:
    """The Arrow schema of the table `pictures`."""
    arrow = need("pyarrow")
    fields = [(name, arrow.string()) for name in ("path", "digest")]
    fields += [("width", arrow.int32()), ("height", arrow.int32()), ("bytes", arrow.int64())]
    fields += [("vector", arrow.list_(arrow.float16(), dimension)), ("stamp", arrow.string())]
    return arrow.schema(fields)


def arrow_rows(rows: Sequence[Row], dimension: int) -> Any:
    """Rows as an Arrow table of `pictures_schema`."""
    arrow = need("pyarrow")
    schema = pictures_schema(dimension)
    vectors = np.stack([row.vector for row in rows]).astype(np.float16)
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names if name != "vector"}
    columns["vector"] = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.ravel()), dimension)
    return arrow.table(columns, schema=schema)


def vectors_of(table: Any) -> NDArray[np.float16]:
    """The column `vector` of an Arrow table as `(n, d)`."""
    column = table.column("vector")
    dimension = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty((0, dimension), np.float16)


def _schema(**fields: str) -> Any:
    arrow = need("pyarrow")
    return arrow.schema([(name, getattr(arrow, kind)()) for name, kind in fields.items()])


def conditions(column: str, values: Iterable[str]) -> Iterable[str]:
    """Conditions in SQL that a column has one of the values, each with a bounded number of them."""
    distinct = list(dict.fromkeys(values))
    for first in range(0, len(distinct), _NAMES):
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in distinct[first : first + _NAMES])
        yield f"{column} IN ({quoted})"


def _add(table: Any, rows: Any) -> None:
    _writing(table, lambda: table.add(rows))


def _delete(table: Any, condition: str) -> None:
    _writing(table, lambda: table.delete(condition))


def _writing(table: Any, write: Callable[[], object]) -> None:
    try:
        table.checkout_latest()
        write()
    except (RuntimeError, ValueError) as error:  # LanceDB's for a full disk and the like
        raise OSError(f"the table '{table.name}' of the index cannot be written: {_short(error)}") from error
