"""Human judgments in one form for all data sets, procedural scenes, and picture files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
