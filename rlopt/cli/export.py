"""``rlopt export RUN --to FORMAT [--out PATH]``"""

from pathlib import Path

from rlopt.checkpoint.choose import require_run
from rlopt.cli.parsing import OneLineParser, add_agent, import_named_agent
from rlopt.console.progress import say
from rlopt.errors import ConfigError, require, unknown_name

FORMATS = {"sb3": "policy.zip", "onnx": "policy.onnx", "torchscript": "policy.pt"}
"""And the file of each without ``--out``."""


def main(argv: list[str]) -> int:
    """Writes a run's policy for other programs, compares it with ``predict``, prints where it is; returns 0."""
    parser = OneLineParser(
        prog="rlopt export",
        description="Write the deterministic policy of a run for other programs: from raw observations, normalised "
        "as in the run, to actions as the environment takes them. The file is compared with predict on random "
        "observations and deleted if it differs. rlopt.load_policy(PATH) reads ONNX and TorchScript back.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as rlopt train printed it, or a checkpoint")
    parser.add_argument("--to", metavar="FORMAT", help="onnx (extra onnx), torchscript, or sb3: Stable-Baselines3's "
                        "zip, which is a pickle, for people who trust you")  # fmt: skip
    parser.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        help="file to write; an existing file is replaced (default: policy.onnx, policy.pt or policy.zip here, if "
        "there is no such file yet)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        default="latest",
        help="checkpoint: latest (default), best, or its name or path",
    )
    parser.add_argument("--raw-frames", action="store_true", help="the file takes images with the channels last, as "
                        "cameras give them")  # fmt: skip
    add_agent(parser)
    arguments = parser.parse(argv)
    import_named_agent(arguments)
    if arguments.to is None:
        raise ConfigError("say what to write: --to onnx|torchscript|sb3")
    if arguments.to not in FORMATS:
        raise unknown_name("format", arguments.to, FORMATS)
    require_run(arguments.run)
    if arguments.out is None:
        arguments.out = Path(FORMATS[arguments.to])
        require(not arguments.out.exists(), f"{arguments.out} exists: give --out {arguments.out} to replace it")

    say(f"exporting {arguments.run}")

    from rlopt.checkpoint.choose import choose_checkpoint
    from rlopt.checkpoint.load import load
    from rlopt.export.module import normalizer_of
    from rlopt.export.write import export, normalization_path

    checkpoint = choose_checkpoint(arguments.run, arguments.checkpoint, lambda line: print(f"warning: {line}"))
    model = load(checkpoint.path, device="cpu")
    difference = export(model, arguments.out, arguments.to, arguments.raw_frames)
    print(f"{arguments.to} of {checkpoint.path.name} of {checkpoint.path.parent}")
    print(f"largest difference to predict on random observations: {difference:.2g}")
    if arguments.to == "sb3":
        print(f"read it with rlopt.{type(model).__name__}.load, only from people you trust: it is a pickle")
        if normalizer_of(model) is not None:
            beside = normalization_path(arguments.out)
            print(f"observations were normalised: VecNormalize.load({str(beside)!r}, env) gives the statistics")
    if getattr(model, "wrapper_statistics", ()):
        print("its environment normalises observations or rewards (NormalizeObservation or NormalizeReward): the "
            "policy expects normalised observations, and only the checkpoint holds the statistics")  # fmt: skip
    print(f"policy: {arguments.out}")
    return 0
