"""Makes an engine by its name. Imports Ray only for its engine."""

from __future__ import annotations

from rlopt.engine.base import Engine
from rlopt.errors import ConfigError, unknown_name

ENGINES = ("local", "ray")


def make_engine(
    name: str = "local",
    *,
    workers: int | None = None,
    threads: int = 1,
    gpus_per_job: float = 0.0,
    address: str | None = None,
) -> Engine:
    """Returns an engine, to be used as a context.

    :param name: local or ray
    :param workers: most jobs at once; default is what the cores, or the cluster's CPUs and GPUs, allow
    :param threads: threads that one job computes with, at least 1; a job takes as many CPUs of a Ray cluster
    :param gpus_per_job: share of a GPU for each job, or a whole number of GPUs
    :param address: of a Ray cluster: host:port, ray://host:port or auto; without one RAY_ADDRESS, or Ray here
    :raises rlopt.errors.ConfigError: for an unknown name, arguments out of range, a missing extra, or an address that
        does not answer
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if name == "local":
        if address is not None:
            raise ConfigError("--address is of a Ray cluster: add --engine ray")
        from rlopt.engine.local import LocalEngine

        return LocalEngine(workers, threads, gpus_per_job)
    from rlopt.engine.ray_cluster import RayEngine

    return RayEngine(address, workers, threads, gpus_per_job)
