"""DreamSim as a differentiable loss: training, guidance and inversion of image generators.

>>> from dreamsim_guidance import DreamSim, load_image
>>> metric = DreamSim("pocket")
>>> distance = metric(load_image("a.png"), load_image("b.png"))

The public names are listed in `__init__.pyi` and imported on first use, so that the command line starts without torch.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("dreamsim-guidance")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.0.0"
