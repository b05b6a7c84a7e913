"""Where work runs: processes of this machine or a Ray cluster, behind one ``map(jobs)``; see docs/scale_out.md."""

from rlopt.engine.base import Engine, MapResult, Observer
from rlopt.engine.choice import check_engine, make_engine
from rlopt.engine.context import JobContext, JobStopped
from rlopt.engine.jobs import Job, JobResult

__all__ = [
    "Engine",
    "Job",
    "JobContext",
    "JobResult",
    "JobStopped",
    "MapResult",
    "Observer",
    "check_engine",
    "make_engine",
]
