"""What an index of very many pictures costs: hours, bytes and memory, from measured rates. No measurement is made here.

    python -m dreamsim_guidance.retrieval.arithmetic --pictures 1e9
    python -m dreamsim_guidance.retrieval.arithmetic --rate 1800 --gpu-price 3 --core-price 0.04 --storage-price 0.023

    GPU hours        = pictures / rate / 3600
    core hours       = pictures x decode / 3600
    vectors          = pictures x dimension x 2 bytes (float16)
    codes of IVF-PQ  = pictures x (bytes of a code + 8 of a row number)
    centroids        = partitions x dimension x 4, codebook = 256 x dimension x 4
    memory to train  = sample x partitions x dimension x 4
    reads per query  = probed share x codes + candidates x dimension x 2
    cost             = GPU hours x price + core hours x price + (pictures' table + index) x price of a GB and month

The default rate is that of one guidance step (forward and backward) of the published ensemble's shape on an H200 in bfloat16,
batch 64, as recorded in benchmarks/results/gpu_table_cuda.json. Embedding needs the forward pass alone, half of the
operations, and was not measured on a GPU: the hours are an upper bound for that card, and half of them an estimate. The
default time of decoding is that of a JPEG of 512 x 512 pixels in benchmarks/results/picture_decoding.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from dreamsim_guidance.files.tables import text_table

__all__ = ["CODES", "Costs", "Scale", "cost_rows", "costs", "index_rows"]

CODES = (28, 56, 112, 224, 448)
"""Bytes of a code that divide 1792 entries into equal parts, of 64, 32, 16, 8 and 4 entries."""

GIGA = 1e9


@dataclass(frozen=True)
class Scale:
    """The size of an index, and what was measured.

    pictures: rows of the table. dimension: of a vector; 1792 is the published ensemble's.
    rate: pictures a second that one GPU embeds. decode: processor seconds to hash, decode and resize a picture.
    picture_bytes: of a picture file. path_bytes: of its name in the table.
    days: in which the job is to be done. partitions: of IVF; by default the square root of the pictures, as LanceDB takes.
    probed: share of the partitions that a query reads. candidates: rows whose exact distances are computed for a query.
    sample: rows for each partition on which k-means is fitted; LanceDB's default is 256.
    gpu_price, core_price: of an hour. storage_price: of a gigabyte (10^9 bytes) and month. All in one currency.
    """

    pictures: float | int = 1e9
    dimension: int = 1792
    rate: float | int = 1808.7
    decode: float | int = 0.0059
    picture_bytes: float | int = 100e3
    path_bytes: float | int = 60
    days: float | int = 7
    partitions: int | None = None
    probed: float | int = 0.001
    candidates: int = 240
    sample: int = 256
    gpu_price: float | int | None = None
    core_price: float | int | None = None
    storage_price: float | int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field.name} must be a positive number, got {value}.")
        if self.probed > 1:
            raise ValueError(f"probed must lie in (0, 1], got {self.probed}.")


@dataclass(frozen=True)
class Costs:
    """What the job costs; times in hours, sizes in bytes.

    gpus, cores: that must work all the time to be done within the days. cores_per_gpu: that keep one GPU busy.
    read_per_second: bytes of picture files.
    """

    gpu_hours: float
    gpus: float
    core_hours: float
    cores: float
    cores_per_gpu: float
    read: float
    read_per_second: float
    vectors: float
    other_columns: float
    claims: float
    price: float | None


def costs(scale: Scale) -> Costs:
    """Compute what embedding costs. The price is None unless the prices of GPUs and cores are given."""
    pictures, rate, decode = float(scale.pictures), float(scale.rate), float(scale.decode)
    gpu_hours = pictures / rate / 3600
    core_hours = pictures * decode / 3600
    hours = scale.days * 24
    # digest in 64 hexadecimal digits, width, height, bytes, and a stamp of about 30 characters
    other = pictures * (scale.path_bytes + 64 + 16 + 30)
    price = None
    if scale.gpu_price is not None and scale.core_price is not None:
        price = gpu_hours * scale.gpu_price + core_hours * scale.core_price
    return Costs(
        gpu_hours=gpu_hours,
        gpus=gpu_hours / hours,
        core_hours=core_hours,
        cores=core_hours / hours,
        cores_per_gpu=rate * decode,
        read=pictures * scale.picture_bytes,
        read_per_second=pictures * scale.picture_bytes / hours / 3600,
        vectors=pictures * scale.dimension * 2,
        other_columns=other,
        claims=pictures * 24,
        price=price,
    )


def partitions_of(scale: Scale) -> int:
    """Partitions of IVF."""
    return scale.partitions or max(1, round(math.sqrt(scale.pictures)))


def index_bytes(scale: Scale, code: int) -> float:
    """Bytes of an IVF-PQ index with codes of so many bytes: codes, row numbers, centroids and codebook."""
    centroids = (partitions_of(scale) + 256) * scale.dimension * 4
    return float(scale.pictures * (code + 8) + centroids)


def training_memory(scale: Scale) -> float:
    """Bytes of the rows on which k-means is fitted, in float32."""
    return float(min(scale.pictures, scale.sample * partitions_of(scale)) * scale.dimension * 4)


def read_per_query(scale: Scale, code: int) -> float:
    """Bytes that a query reads from disk if nothing is in memory but the centroids: codes, then exact vectors."""
    return float(scale.probed * scale.pictures * (code + 8) + scale.candidates * scale.dimension * 2)


def cost_rows(scale: Scale) -> list[tuple[str, str]]:
    """The table of what embedding costs, as names and values with their units."""
    sums = costs(scale)
    rows = [
        ("GPU hours", f"{sums.gpu_hours:,.0f}"),
        (f"GPUs for {scale.days:g} days", f"{sums.gpus:.1f}"),
        ("processor core hours to decode", f"{sums.core_hours:,.0f}"),
        (f"cores for {scale.days:g} days", f"{sums.cores:.0f}"),
        ("cores that keep one GPU busy", f"{sums.cores_per_gpu:.0f}"),
        ("picture files to read", _bytes(sums.read)),
        (f"read per second for {scale.days:g} days", _bytes(sums.read_per_second)),
        ("vectors, float16", _bytes(sums.vectors)),
        ("other columns", _bytes(sums.other_columns)),
        ("claims in memory while embedding", _bytes(sums.claims)),
        ("partitions of IVF", f"{partitions_of(scale):,}"),
        ("memory to fit the partitions", _bytes(training_memory(scale))),
    ]
    if sums.price is not None:
        rows.append(("price of embedding", f"{sums.price:,.0f}"))
    return rows


def index_rows(scale: Scale, codes: Sequence[int] = CODES) -> list[tuple[str, ...]]:
    """For each size of a code: its bytes, the index's size, the share of the vectors' size, and the bytes a query reads."""
    vectors = costs(scale).vectors
    rows = []
    for code in codes:
        size = index_bytes(scale, code)
        row = [str(code), _bytes(size), f"{size / vectors:.1%}", _bytes(read_per_query(scale, code))]
        if scale.storage_price is not None:
            stored = size + vectors + costs(scale).other_columns
            row.append(f"{stored / GIGA * scale.storage_price:,.0f}")
        rows.append(tuple(row))
    return rows


def index_headings(scale: Scale) -> tuple[str, ...]:
    """The headings of `index_rows`."""
    headings = ("bytes of a code", "index", "of the vectors", "read per query")
    return (*headings, "price of a month") if scale.storage_price is not None else headings


def _bytes(count: float | int) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def main(words: Sequence[str] | None = None) -> None:
    """Print both tables for the figures on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dreamsim_guidance.retrieval.arithmetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in fields(Scale):
        kind = int if field.name in ("dimension", "partitions", "candidates", "sample") else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    scale = Scale(**vars(parser.parse_args(words)))
    print(text_table(["", f"{scale.pictures:,.0f} pictures"], [list(row) for row in cost_rows(scale)]))
    print()
    print(text_table(list(index_headings(scale)), [list(row) for row in index_rows(scale)]))


if __name__ == "__main__":
    main()
