from .optimise import Optimised as Optimised
from .optimise import optimise as optimise
from .pixels import Pixels as Pixels
from .stylegan_code import load_stylegan as load_stylegan
from .stylegan_files import read_stylegan_pkl as read_stylegan_pkl
