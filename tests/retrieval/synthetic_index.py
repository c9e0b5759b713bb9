"""Indices of made-up vectors, without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreamsim_guidance.retrieval import Index
from dreamsim_guidance.retrieval.description import Description
from dreamsim_guidance.retrieval.embedder import Row
from dreamsim_guidance.retrieval.tables import IndexFolder

__all__ = ["add_rows", "clustered_rows", "random_rows", "synthetic_index"]


def random_rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit vectors in random directions, `(n, d)` float32."""
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered_rows(n: int, d: int, clusters: int, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    """Unit vectors around random centres, `(n, d)` float32."""
    random = np.random.default_rng(seed)
    rows = random_rows(clusters, d, seed)[random.integers(0, clusters, n)]
    rows = rows + spread / np.sqrt(d) * random.normal(size=(n, d)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def synthetic_index(folder: Path, vectors: np.ndarray, digests: Sequence[str] | None = None) -> Index:
    """An index whose row i is named `/pictures/i.png`. digests: names of contents; by default all differ."""
    IndexFolder.create(folder, Description("pocket", "0" * 32, vectors.shape[1]))
    add_rows(folder, vectors, digests)
    return Index.open(folder)


def add_rows(folder: Path, vectors: np.ndarray, digests: Sequence[str] | None = None) -> None:
    """Add rows to an index, named by their numbers."""
    opened = IndexFolder(folder)
    first = opened.pictures.count_rows()
    names = [str(first + i) for i in range(len(vectors))] if digests is None else digests
    rows = [
        Row(f"/pictures/{first + i}.png", hashlib.sha256(name.encode()).hexdigest(), 8 + i % 3, 8, 100 + i, "", vector)
        for i, (name, vector) in enumerate(zip(names, vectors.astype(np.float16), strict=True))
    ]
    opened.write(rows)
