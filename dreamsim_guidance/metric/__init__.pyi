from .backbones import Branch as Branch
from .backbones import BranchConfig as BranchConfig
from .dreamsim import DreamSim as DreamSim
from .dreamsim import Target as Target
from .ensemble import Ensemble as Ensemble
from .variants import BRANCHES as BRANCHES
from .variants import VARIANTS as VARIANTS
