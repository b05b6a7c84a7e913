"""``rlopt doctor``: what is installed, what works here, and every known-bad combination with its cure."""

from rlopt.cli.machine_checks import OPTIONAL_PACKAGES, PACKAGES, Machine, find, this_machine
from rlopt.cli.parsing import OneLineParser
from rlopt.console.progress import say


def report(machine: Machine) -> str:
    """The facts, as text for people."""
    optional = [name for name in OPTIONAL_PACKAGES if machine.versions.get(name)]
    packages = "\n".join(f"  {name:<42}{machine.versions.get(name) or 'missing'}" for name in (*PACKAGES, *optional))
    envpool = "not installed" if not machine.has("envpool") else machine.envpool_error or "works"
    gl = f"{machine.gl or 'no headless library'} (MUJOCO_GL {machine.environment.get('MUJOCO_GL', 'not set')})"
    torch = "a CPU build" if machine.torch_cuda is None else f"built for CUDA {machine.torch_cuda}"
    facts = {
        "python": machine.python,
        "system": f"{machine.system}, {machine.cores} cores",
        "device": f"{machine.device}; torch is {'broken' if machine.torch_error else torch}",
        "rendering": gl,
        "envpool": envpool,
        "C compiler": machine.c_compiler or "none",
        "free disk": f"{machine.free_gigabytes:.1f} GB",
    }
    lines = "\n".join(f"  {name:<12}{value}" for name, value in facts.items())
    return f"machine\n{lines}\npackages\n{packages}"


def main(argv: list[str]) -> int:
    """Prints the report; returns 1 if a combination that is known to fail is found, 0 otherwise."""
    OneLineParser(
        prog="rlopt doctor",
        description="Check this machine: versions, device, rendering, EnvPool, compiler, disk, and combinations of "
        "packages that are known to fail, each with its cure. Exit code 1 if one is found.",
    ).parse(argv)
    say("checking this machine")
    machine = this_machine()
    print(report(machine))
    found = find(machine)
    for check in sorted(found, key=lambda check: check.is_note):
        print(f"{'note' if check.is_note else 'PROBLEM'}: {check.problem}\n  cure: {check.cure}")
    problems = sum(not check.is_note for check in found)
    print(f"{problems} problem{'s' if problems != 1 else ''} found" if problems else "no problem found")
    return 1 if problems else 0
