"""The command `version`: what a bug report should name."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

__all__ = ["VersionCommand"]


@dataclass(frozen=True)
class VersionCommand:
    """Print the versions of this package and of those that it builds on."""

    def __call__(self) -> int:
        for name in ("dreamsim-guidance", "torch", "timm", "peft"):
            try:
                print(name, version(name))
            except PackageNotFoundError:
                print(name, "not installed")
        print("python", platform.python_version())
        return 0
