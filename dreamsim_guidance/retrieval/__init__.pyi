from .embedding import embed as embed
from .index import Index as Index
