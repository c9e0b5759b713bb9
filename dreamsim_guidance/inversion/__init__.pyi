from .optimise import Optimised as Optimised
from .optimise import optimise as optimise
from .pixels import Pixels as Pixels
