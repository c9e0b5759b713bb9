"""The packages of the extra `search`, with an error that says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["need"]


def need(module: str, extra: str = "search") -> ModuleType:
    """Import a module of an optional package.

    module: such as "lancedb" or "pyarrow.parquet".
    extra: of this library, that installs the package; by default "search".

    Raises ModuleNotFoundError with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f'tables of embeddings need {package}, which is not installed; pip install "dreamsim-guidance[{extra}]".',
            name=error.name,
        ) from error
