from .optimizer import Ranking as Ranking
from .optimizer import ZORankSGD as ZORankSGD
from .query import Outcome as Outcome
from .query import Query as Query
