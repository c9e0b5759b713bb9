"""The metric: vision towers, the ensemble that concatenates their features, adapters, and the distance."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
