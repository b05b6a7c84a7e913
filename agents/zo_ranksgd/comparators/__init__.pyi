from .base import Peer as Peer
from .cbo import CBO as CBO
from .cmaes import CMAES as CMAES
from .descent import GLD as GLD
from .descent import ZOSGD as ZOSGD
from .es import ARS as ARS
from .es import OpenAIES as OpenAIES
