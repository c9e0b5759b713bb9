"""The table of guidance methods, one paper per file.

To add a method, write its file and add its two lines here: the import, for type checkers, and the row of the table. Whatever
lists methods (exports, command line, comparisons) reads this table; whatever treats methods differently asks for what
their classes declare (see `guidance.method`). Nothing heavy is imported before a class is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from dreamsim_guidance.guidance.method import Method
    from dreamsim_guidance.guidance.methods.dps import DPS as DPS
    from dreamsim_guidance.guidance.methods.dsg import DSG as DSG
    from dreamsim_guidance.guidance.methods.flowchef import FlowChef as FlowChef
    from dreamsim_guidance.guidance.methods.freedom import FreeDoM as FreeDoM
    from dreamsim_guidance.guidance.methods.lgd import LGD as LGD
    from dreamsim_guidance.guidance.methods.mmps import MMPS as MMPS
    from dreamsim_guidance.guidance.methods.mpgd import MPGD as MPGD
    from dreamsim_guidance.guidance.methods.tfg import TFG as TFG
    from dreamsim_guidance.guidance.methods.universal import UniversalGuidance as UniversalGuidance

METHODS = {
    "mpgd": "MPGD",
    "dps": "DPS",
    "lgd": "LGD",
    "freedom": "FreeDoM",
    "universal": "UniversalGuidance",
    "dsg": "DSG",
    "tfg": "TFG",
    "flowchef": "FlowChef",
    "mmps": "MMPS",
}
"""Short names, which are also the names of the files in this folder, and classes."""

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={file: [name] for file, name in METHODS.items()}
)


def method_class(name: str) -> type[Method]:
    """The class of a guidance method.

    name: a short name of `METHODS`, or the full name of a class of your own, `package.module.Class`.
    Raises `ValueError` if there is no such method.
    """
    from dreamsim_guidance.guidance.method import Method

    module, _, kind = (f"{__name__}.{name}.{METHODS[name]}" if name in METHODS else name).rpartition(".")
    try:
        chosen = getattr(import_module(module), kind) if module else None
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the guidance method '{name}' cannot be imported: {error}; its package must be installed or on PYTHONPATH."
        ) from error
    if not (isinstance(chosen, type) and issubclass(chosen, Method)):
        raise ValueError(
            f"unknown guidance method '{name}'; known: {', '.join(METHODS)}, or a subclass of Method as package.module.Class."
        )
    return chosen
