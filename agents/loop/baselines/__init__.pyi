from .fopo import FOPO as FOPO
from .olsvi import OLSVIFH as OLSVIFH
from .optimistic_q import OptimisticQ as OptimisticQ
from .q_learning import RVIQ as RVIQ
from .q_learning import DifferentialQ as DifferentialQ
from .tsde import TSDE as TSDE
from .ucrl2 import UCRL2 as UCRL2
