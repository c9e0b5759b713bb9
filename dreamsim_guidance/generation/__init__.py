"""Pictures from a plan of prompts and models, and triplets of a reference and two variations from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
