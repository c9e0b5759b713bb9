"""Parquet files and Lance tables with a column of picture files' bytes.

The column holds bytes, or structs with a field `bytes`, as Hugging Face's datasets write them. It is chosen by its type,
and among several by its name. A picture in another column has it in its path, `table.parquet#column::row`, so that the
columns of one table do not replace each other in an index, and every path leads to its own bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from dreamsim_guidance.retrieval.extras import need
from dreamsim_guidance.retrieval.sources.piece import LARGEST, Picture, PieceError, too_large
from dreamsim_guidance.retrieval.sources.remote import container_name, open_container, stamp_of_container

__all__ = ["LanceTable", "Parquet", "lance_piece", "parquet_piece"]

_NAMES = ("image", "picture", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "data", "content")
"""Names of the column, the most likely first, where several have the type."""

_ROWS = 64


@dataclass(frozen=True)
class _Table:
    """A table as a piece of work.

    source: its path or URL. column: of the pictures' bytes. chosen: whether that is the one which is chosen without --column.
    """

    source: str
    column: str
    chosen: bool
    stamp: str
    count: int | None

    @property
    def container(self) -> str:
        return container_name(self.source) + ("" if self.chosen else f"#{quote(self.column, safe='')}")


class Parquet(_Table):
    """A Parquet file as a piece of work."""

    def pictures(self) -> Iterator[Picture]:
        parquet, arrow = need("pyarrow.parquet"), need("pyarrow")
        with open_container(self.source) as stream:
            try:
                file = parquet.ParquetFile(stream)
                batches = file.iter_batches(batch_size=_ROWS, columns=[self.column])
                yield from _rows(batches, self.container, self.column, self.stamp)
            except (arrow.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # of the file system
                    raise
                raise PieceError(f"the Parquet file is damaged ({error})") from error


class LanceTable(_Table):
    """A Lance table as a piece of work; its source is a folder."""

    def pictures(self) -> Iterator[Picture]:
        try:
            batches = _lance(self.source).search().select([self.column]).limit(None).to_batches(_ROWS)
            yield from _rows(batches, self.container, self.column, self.stamp)
        except (RuntimeError, ValueError) as error:
            raise PieceError(f"the Lance table is damaged ({error})") from error


def parquet_piece(source: str, column: str | None = None) -> Parquet:
    """A Parquet file as a piece. column: by default chosen; see the top of this file.

    Raises OSError for a file that cannot be read, PieceError for one that is no Parquet file, ValueError for one that has no
    such column.
    """
    parquet, arrow = need("pyarrow.parquet"), need("pyarrow")
    with open_container(source) as stream:
        try:
            file = parquet.ParquetFile(stream)
            schema, count = file.schema_arrow, file.metadata.num_rows
        except arrow.ArrowException as error:
            raise PieceError(f"not a Parquet file, or one that is damaged ({error})") from error
    return Parquet(source, *_column(schema, column, source), stamp_of_container(source), count)


def lance_piece(source: str, column: str | None = None) -> LanceTable:
    """A Lance table as a piece. Arguments and errors as `parquet_piece`."""
    table = _lance(source)
    latest = table.list_versions()[-1]
    stamp = f"{latest['version']} {latest['timestamp']}"
    return LanceTable(source, *_column(table.schema, column, source), stamp, table.count_rows())


def _lance(source: str) -> Any:
    folder, _, name = source.rstrip("/").rpartition("/")
    try:
        return need("lancedb").connect(folder or ".").open_table(PurePosixPath(name).stem)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"'{source}' is not a Lance table ({error}).") from error


def _column(schema: Any, column: str | None, source: str) -> tuple[str, bool]:
    """The column of the pictures' bytes, and whether it is the one that is chosen where none is named."""
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    if column is not None:
        if column not in schema.names:
            raise ValueError(f"'{source}' has no column '{column}'; it has {', '.join(schema.names)}.")
        if column not in candidates:
            raise ValueError(
                f"the column '{column}' of '{source}' holds {schema.field(column).type}, not bytes of picture files."
            )
    chosen = candidates[0] if len(candidates) == 1 else next((name for name in _NAMES if name in candidates), None)
    if column is not None:
        return column, column == chosen
    if chosen is None:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        problem = "no column of bytes" if not candidates else f"several columns of bytes ({', '.join(candidates)})"
        raise ValueError(f"'{source}' has {problem}; name the one with picture files by --column. Columns: {columns}.")
    return chosen, True


def _holds_bytes(kind: Any) -> bool:
    types = need("pyarrow").types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _rows(batches: Any, container: str, column: str, stamp: str) -> Iterator[Picture]:
    row = 0
    for batch in batches:
        for value in batch.column(batch.schema.get_field_index(column)):
            label = f"{container}::{row}"
            row += 1
            content = value.as_py()
            if isinstance(content, dict):
                content = content.get("bytes")
            if content is None:
                yield Picture(label, stamp, fault="no bytes (null)")
            elif len(content) > LARGEST:
                yield Picture(label, stamp, fault=too_large(len(content)))
            else:
                yield Picture(label, stamp, data=bytes(content))
