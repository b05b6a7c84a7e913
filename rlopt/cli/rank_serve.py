"""``rlopt rank serve STUDY``"""

from __future__ import annotations

from typing import Any

from rlopt.cli.parsing import OneLineParser, number
from rlopt.cli.rank_options import add_study_options, open_study
from rlopt.errors import ConfigError
from rlopt.feedback import require_packages
from rlopt.settings.fields import Range

LONGEST_NAME = 80
MOST_NAMES = 100


def main(argv: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM; returns 0."""
    parser = OneLineParser(
        prog="rlopt rank serve",
        description="Serve a study to those who rank its clips. Prints one URL; open it in a browser. The trainer is "
        "another process and need not be running.",
    )
    add_study_options(parser)
    add = parser.add_argument
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine "
        "only; others need --token)")  # fmt: skip
    add("--port", metavar="N", default="0", help="port to listen on (default 0: a free one)")
    add("--token", metavar="TEXT", help="what the link carries: auto draws one (the default on this machine), none "
        "asks for none (this machine only), or 20 characters and more of your own")  # fmt: skip
    add("--raters", metavar="N|NAMES", help="browsers that the link lets in (default: the answers that a round needs), "
        "or their names: ada,grace")  # fmt: skip
    add("--public-url", metavar="URL", help="where a proxy in front serves it, https://rank.example.org")
    add("--allow-host", metavar="NAME", action="append", default=[], help="a further name that the server is called by")
    add("--requests-per-second", metavar="X", default="20", help="that one browser may make (default 20)")
    add("--lease-seconds", metavar="N", default="120", help="how long a silent browser keeps a round (default 120)")
    add("--verbose", action="store_true", help="print a line a request, without secrets")
    arguments = parser.parse(argv)
    options = {
        "port": number("--port", arguments.port, int, Range(ge=0, le=65535)),
        **_raters(arguments.raters),
        "requests_per_second": number("--requests-per-second", arguments.requests_per_second, float, Range(gt=0)),
        "lease_seconds": number("--lease-seconds", arguments.lease_seconds, float, Range(ge=1, le=86400)),
    }
    require_packages()

    from rlopt.console.progress import say
    from rlopt.feedback.server.serving import ServeSettings, check, serve

    settings = ServeSettings(
        host=arguments.host,
        token=arguments.token,
        public_url=arguments.public_url,
        allow_hosts=tuple(name.lower() for name in arguments.allow_host),
        verbose=arguments.verbose,
        **options,
    )
    check(settings)
    store, study = open_study(arguments)
    serve(store, study, settings, say)
    return 0


def _raters(text: str | None) -> dict[str, Any]:
    """A number of raters, or their names."""
    if text is None or text.strip().lstrip("+-").replace(".", "").isdigit():
        return {"raters": number("--raters", text, int, Range(ge=1, le=100_000))}
    names = [" ".join(name.split()) for name in text.split(",")]
    cure = "write a number, or different names with commas between them: --raters ada,grace"
    for name in names:
        if not name or not name.isprintable() or len(name) > LONGEST_NAME:
            raise ConfigError(f"--raters: {name[:LONGEST_NAME]!r} is no name of 1 to {LONGEST_NAME} characters; {cure}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--raters names {twice!r} twice; {cure}")
    if len(names) > MOST_NAMES:
        raise ConfigError(f"--raters has {len(names)} names, of at most {MOST_NAMES}: give their number")
    return {"names": tuple(names)}
