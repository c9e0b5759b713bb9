"""How well a metric agrees with people: evaluation on sets of judgments, rules of agreement, ceilings, intervals."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
