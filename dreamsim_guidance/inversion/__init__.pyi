from .optimise import Optimised as Optimised
from .optimise import optimise as optimise
from .pixels import Pixels as Pixels
from .trajectory import Reconstruction as Reconstruction
from .trajectory import Trajectory as Trajectory
from .trajectory import invert_trajectory as invert_trajectory
