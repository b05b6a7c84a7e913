"""Browsers of a ranking study without a browser: HTTP clients that keep cookies and read the page's CSRF token."""

import re
from typing import Any

from ranking_study import order_by_value, values_of
from starlette.testclient import TestClient

from rlopt.feedback.server.app import make_app
from rlopt.feedback.server.guard import Limits
from rlopt.feedback.store import StudyStore
from rlopt.feedback.study import HumanStudy

TOKEN = "correct-horse-battery-staple-1234"
BASE = "http://127.0.0.1"
NO_LIMITS = Limits(requests=1e6, media=1e6, unknown=1e6)


def make_client(app: Any) -> TestClient:
    """A browser that has not opened the link yet."""
    return TestClient(app, base_url=BASE, follow_redirects=False)


def app_of(study: HumanStudy, **settings: Any) -> Any:
    """The application of a study, with a known token."""
    return make_app(study.store, study.study, **{"token": TOKEN, "admits": 100, "limits": NO_LIMITS, **settings})


def csrf_of(client: Any) -> dict[str, str]:
    """The headers that the page's script sends with a POST."""
    pattern = r'<meta name="csrf-token" content="(\w+)">'
    # The results lease no round, but where there is an owner they are not for raters.
    found = re.search(pattern, client.get("/results").text) or re.search(pattern, client.get("/").text)
    assert found is not None
    return {"X-CSRF-Token": found[1], "Origin": BASE}


def press_begin(client: Any, token: str | None = TOKEN, base: str = BASE, **fields: str) -> Any:
    """What the button of the link's page sends."""
    return client.post(
        "/enter", data={"token": token or "", **fields}, headers={"Origin": base}, follow_redirects=False
    )


def entered(app: Any) -> tuple[Any, dict[str, str]]:
    """A browser that has opened the link, and its headers for POSTs."""
    client = make_client(app)
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    assert press_begin(client).status_code == 303
    return client, csrf_of(client)


def exact_answer(store: StudyStore, shown: dict[str, Any], key: str) -> dict[str, Any]:
    """The body with which a person who sees everything answers a round."""
    tiers, unranked = order_by_value(values_of(store, [clip["id"] for clip in shown["clips"]]), shown["k"])
    return {"key": key, "tiers": tiers, "unranked": unranked, "abstain": False, "seconds": 2.5}
