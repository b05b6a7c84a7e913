"""Tables of a ranking study. A candidate's slot, its index in the query, is never the place where a rater saw it.

Times are seconds since 1970 (UTC). What a browser may see of rounds, candidates and media are random identifiers.
"""

from typing import Any

import sqlalchemy as sa

FORMAT = 1
"""Written into every study; another number is refused."""

metadata = sa.MetaData()


def _table(name: str, *parts: Any) -> sa.Table:
    return sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), *parts)


def _belongs(table: str, **settings: Any) -> sa.Column[int]:
    return sa.Column(f"{table}_id", sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False, **settings)


def _secret(name: str) -> sa.Column[str]:
    """128 random bits or a digest, in text."""
    return sa.Column(name, sa.String(64), nullable=False, unique=True)


study = _table(
    "study",
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("media", sa.String(8), nullable=False),  # video or image
    sa.Column("instructions", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),  # JSON, the caller's
    sa.Column("algorithm", sa.Text, nullable=False),  # class and version of the optimiser
    sa.Column("annotators", sa.Integer, nullable=False),  # answers that a round needs
    sa.Column("finished", sa.Boolean, nullable=False, default=False),
    sa.Column("trainer", sa.String(64)),  # which process may open and consume rounds: the one that came last
    sa.Column("trainer_seen", sa.Double),
    sa.Column("start_clip", sa.Integer),  # of the point that the search began at, once there is one
    sa.Column("now_clip", sa.Integer),  # of the point where it is
    sa.Column("created_at", sa.Double, nullable=False),
)

rater = _table(
    "rater",
    _belongs("study"),
    _secret("public_id"),
    _secret("session_digest"),  # SHA-256 of the cookie's value, which is stored nowhere
    sa.Column("expert", sa.Boolean),  # whose orders are right
    sa.Column("name", sa.String(80)),  # personal data: optional, deletable
    sa.Column("created_at", sa.Double, nullable=False),
)

round_ = _table(
    "round",
    _belongs("study"),
    _secret("public_id"),
    sa.Column("iteration", sa.Integer, nullable=False),
    # gradient, line_search, population; of the protocol check, training, duel
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("m", sa.Integer, nullable=False),
    sa.Column("k", sa.Integer, nullable=False),
    sa.Column("current", sa.Integer),  # slot of the current point
    # rendering, open, answered, consumed, void; kept: one of the protocol
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("source", sa.Integer),  # of a check or training round: the round whose clips it shows again
    sa.Column("for_rater", sa.Integer),  # of a round that the protocol made: the rater whom alone it is for
    sa.Column("step", sa.Integer),  # the update that used it, from 0; several rounds may share one
    sa.Column("params", sa.LargeBinary, nullable=False),  # safetensors: candidates float64 [m, d]
    sa.Column("digest_before", sa.String(64), nullable=False),
    sa.Column("digest_after", sa.String(64)),
    sa.Column("step_norm", sa.Double),
    sa.Column("distance_from_start", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("opened_at", sa.Double),
    sa.Column("answered_at", sa.Double),
    sa.Column("consumed_at", sa.Double),
    sa.Index("rounds_by_status", "study_id", "status", "iteration"),
    sa.Index(
        "one_live_round_an_iteration",
        "study_id",
        "iteration",
        unique=True,
        sqlite_where=sa.text("status <> 'void'"),
        postgresql_where=sa.text("status <> 'void'"),
    ),
)

clip = _table(
    "clip",
    _belongs("study"),
    _secret("media_id"),
    _secret("poster_id"),
    sa.Column("path", sa.Text, nullable=False),  # relative to the media folder, POSIX
    sa.Column("poster", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("poster_sha256", sa.String(64), nullable=False),
    sa.Column("fps", sa.Double, nullable=False),
    sa.Column("frames", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("seeds", sa.Text, nullable=False),  # JSON list of ints
    sa.Column("hidden_return", sa.Double),  # read by exports alone, never by the server
)

candidate = _table(
    "candidate",
    _belongs("round"),
    _belongs("clip"),
    _secret("public_id"),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("params_sha256", sa.String(64), nullable=False),
    sa.UniqueConstraint("round_id", "slot"),
)

assignment = _table(
    "assignment",
    _belongs("round"),
    _belongs("rater"),
    sa.Column("display", sa.Text, nullable=False),  # JSON: slots in the order in which this rater sees them
    sa.Column("state", sa.String(12), nullable=False),  # leased or answered
    sa.Column("lease_until", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("round_id", "rater_id"),
    sa.Index("assignments_of_rater", "rater_id", "state"),
)

answer = _table(
    "answer",
    _belongs("round"),
    _belongs("rater"),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("key", sa.String(80), nullable=False),
    sa.Column("tiers", sa.Text, nullable=False),  # JSON: lists of slots, best first
    sa.Column("unranked", sa.Text, nullable=False),  # JSON: slots
    sa.Column("abstain", sa.Boolean, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("trust", sa.Double),  # with which the search used it, 0 to 1
    sa.Column("withdrawn_at", sa.Double),  # undone, or replaced by a later revision
    sa.UniqueConstraint("rater_id", "key"),
    sa.UniqueConstraint("round_id", "rater_id", "revision"),
    sa.Index(
        "one_standing_answer",
        "round_id",
        "rater_id",
        unique=True,
        sqlite_where=sa.text("withdrawn_at IS NULL"),
        postgresql_where=sa.text("withdrawn_at IS NULL"),
    ),
)

event = _table(
    "event",
    _belongs("study", index=True),
    sa.Column("round_id", sa.ForeignKey("round.id", ondelete="CASCADE")),
    sa.Column("rater_id", sa.ForeignKey("rater.id", ondelete="CASCADE")),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(24), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON
)

optimizer_state = _table(
    "optimizer_state",
    _belongs("study"),
    sa.Column("iteration", sa.Integer, nullable=False),  # rounds consumed when it was so
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # JSON
    sa.Column("arrays", sa.LargeBinary, nullable=False),  # safetensors
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("study_id", "iteration"),
)

ADDED = {"round": ("step", "source", "for_rater"), "rater": ("expert",), "answer": ("trust",)}
"""Columns that a database of an earlier version lacks, by table; all may be empty."""

TABLES = (study, rater, round_, clip, candidate, assignment, answer, event, optimizer_state)
"""Parents before children."""
