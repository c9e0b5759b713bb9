from .backbones import Branch as Branch
from .backbones import BranchConfig as BranchConfig
from .dreamsim import DreamSim as DreamSim
from .ensemble import Ensemble as Ensemble
from .target import Target as Target
from .tower_weights import TowerWeights as TowerWeights
from .variants import BRANCHES as BRANCHES
from .variants import VARIANTS as VARIANTS
