from .guidance import MPGD as MPGD
from .guidance import guide as guide
from .guidance import plan as plan
from .inversion import Inversion as Inversion
from .inversion import Latents as Latents
from .inversion import Noise as Noise
from .inversion import Pixels as Pixels
from .inversion import StyleGAN as StyleGAN
from .inversion import Weights as Weights
from .inversion import invert as invert
from .inversion import invert_trajectory as invert_trajectory
from .loss import Loss as Loss
from .loss import PairLoss as PairLoss
from .metric.backbones import Branch as Branch
from .metric.backbones import BranchConfig as BranchConfig
from .metric.compat import dreamsim as dreamsim
from .metric.dreamsim import DreamSim as DreamSim
from .metric.ensemble import Ensemble as Ensemble
from .metric.target import Target as Target
from .metric.variants import BRANCHES as BRANCHES
from .metric.variants import VARIANTS as VARIANTS
from .pipelines import differentiable as differentiable
from .preprocess import load_image as load_image
from .preprocess import save_image as save_image
from .preprocess import to_image as to_image

__version__: str
