from .optimizer import Outcome as Outcome
from .optimizer import Ranking as Ranking
from .optimizer import ZORankSGD as ZORankSGD
from .query import Query as Query
