"""Embedding collections of pictures into a table, and searching, comparing and counting with the embeddings."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
