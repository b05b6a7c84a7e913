"""``rlopt rank images``: people rank images of a diffusion pipeline, and a search finds the latent they like."""

from pathlib import Path

from rlopt.cli.parsing import OneLineParser, json_object
from rlopt.errors import unknown_name
from rlopt.feedback import require_packages
from rlopt.settings.fields import Range

SEARCHES = ("zo_ranksgd", "cmaes", "one_plus_lambda", "bayes", "auto")


def main(argv: list[str]) -> int:
    """Asks people round after round; returns 0 when all rounds are answered, 130 or 143 after a signal."""
    arguments = _parser().parse(argv)
    if arguments.search not in SEARCHES:
        raise unknown_name("search", arguments.search, SEARCHES)
    call = json_object("--arguments", arguments.arguments) or {}
    if arguments.prompt is not None:
        call["prompt"] = arguments.prompt
    if arguments.subspace == 0:
        arguments.subspace = None
    require_packages()

    from rlopt.agents.zo_ranksgd.latents.diffusers_adapter import DiffusersDecoder
    from rlopt.agents.zo_ranksgd.latents.image_study import INSTRUCTIONS, run_study
    from rlopt.agents.zo_ranksgd.latents.search import LatentSearch
    from rlopt.console.progress import say
    from rlopt.console.signals import StopSignals

    folder = Path(arguments.study)
    decode = DiffusersDecoder.from_folder(
        arguments.pipeline, device=arguments.device, n_steps=arguments.denoising_steps, arguments=call
    )
    search = LatentSearch(
        decode,
        decode.shape,
        search=arguments.search,
        subspace=arguments.subspace,
        m=arguments.m,
        k=arguments.k,
        smoothing=arguments.smoothing,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    say(f"search: {search.search_words}")
    with StopSignals("stopping; the same command continues with the study") as stop:
        pictures = run_study(
            search,
            folder,
            rounds=arguments.rounds,
            name=arguments.name or folder.absolute().name,
            instructions=arguments.instructions or INSTRUCTIONS,
            annotators=arguments.annotators,
            port=None if arguments.no_serve else arguments.port,
            stopping=lambda: stop.received is not None,
        )
    if pictures is None:
        return stop.exit_code
    for path in pictures:
        print(path)
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt rank images",
        description="Let people rank images of a diffusion pipeline, and search its latent for the image that they "
        "like best. The same command continues a study. Writes the first and the found image, and the search.",
    )
    add, number = parser.add_argument, parser.add_number
    add("study", metavar="STUDY", help="folder of the study; a new one is made")
    add("--pipeline", metavar="FOLDER", required=True, help="folder of a pipeline that diffusers saved, with "
        "safetensors weights; nothing is downloaded")  # fmt: skip
    add("--prompt", metavar="TEXT", help="prompt, for pipelines that take one")
    add(
        "--arguments",
        metavar="JSON",
        help="arguments of each call of the pipeline, such as '{\"guidance_scale\": 5.0}'",
    )
    number("--denoising-steps", Range(ge=1), default=20, help="denoising steps of an image (default 20)")
    add("--device", metavar="DEVICE", default="cpu", help="torch device of the pipeline (default cpu)")
    number("--batch-size", Range(ge=1), help="images decoded at once (default: all of a round)")
    add("--search", metavar="NAME", default="zo_ranksgd", help=f"{', '.join(SEARCHES)} (default zo_ranksgd)")
    number("--rounds", Range(ge=1), default=15, help="rounds of images (default 15)")
    number("--m", Range(ge=2), default=8, help="images of a round (default 8)")
    number("--k", Range(ge=1), default=3, help="number of best images to rank (default 3)")
    number("--smoothing", Range(gt=0), float, default=0.3, help="size of a variation relative to the latent's norm "
        "(default .3)")  # fmt: skip
    number("--subspace", Range(ge=0), default=32, help="number of random directions to search; 0 for all (default 32)")
    number("--seed", Range(ge=0), default=0, help="seed of the first latent and the search (default 0)")
    number("--annotators", Range(ge=1, le=100), default=1, help="answers to each round (default 1)")
    add("--name", metavar="NAME", help="name of the study (default: that of its folder)")
    add("--instructions", metavar="TEXT", help="text above the images")
    add("--no-serve", action="store_true", help="start no server; run rlopt rank serve STUDY in another process")
    number("--port", Range(ge=0, le=65535), default=0, help="port of the server (default 0: a free one)")
    return parser
