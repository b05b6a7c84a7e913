"""Makes an engine by its name. Imports Ray only for its engine."""

import os

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
    :param workers: largest number of parallel jobs; default is what the cores, or the cluster's CPUs and GPUs, allow
    :param threads: number of threads of a job, at least 1; a job takes as many CPUs of a Ray cluster
    :param gpus_per_job: share of a GPU for each job, or a whole number of GPUs
    :param address: address of a Ray cluster: host:port, ray://host:port or auto; without one RAY_ADDRESS, or Ray here
    :raises rlopt.errors.ConfigError: for an unknown name, arguments out of range, a missing extra, or an address that
        does not answer
    """
    _check_name(name, address)
    if name == "local":
        from rlopt.engine.local import LocalEngine

        return LocalEngine(workers, threads, gpus_per_job)
    from rlopt.engine.ray_cluster import RayEngine

    return RayEngine(address, workers, threads, gpus_per_job)


def check_engine(
    name: str, *, workers: int | None = None, gpus_per_job: float = 0.0, address: str | None = None
) -> None:
    """Finds what :func:`make_engine` would refuse, without starting anything.

    Whether a cluster has room, and whether one runs here (``auto``), is known only when it is used.

    :raises rlopt.errors.ConfigError: as :func:`make_engine`
    """
    _check_name(name, address)
    if name == "local":
        from rlopt.engine.local import LocalEngine

        LocalEngine(workers, gpus_per_job=gpus_per_job)  # starts its processes when there are jobs
        return
    from rlopt.engine.ray_cluster import check_cluster

    check_cluster(address or os.environ.get("RAY_ADDRESS"), gpus_per_job)


def needs_engine(setting: str) -> ConfigError:
    """What to raise for a setting of an engine where none is named."""
    return ConfigError(f"--{setting.replace('_', '-')} needs an engine: add --engine local or ray")


def _check_name(name: str, address: str | None) -> None:
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if name == "local" and address is not None:
        raise ConfigError("--address needs a Ray cluster: add --engine ray")
