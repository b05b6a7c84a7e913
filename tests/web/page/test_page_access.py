"""The pages for everybody: axe-core, narrow screens, no scripts, and the results in words, numbers and a picture."""

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect
from ranking_page import clips, next_round, press
from ranking_site import Site, wait_until
from ranking_study import optimizer

pytestmark = pytest.mark.ui

NewPage = Callable[..., Page]
NewSite = Callable[..., Site]
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
TALLER_THAN_WIDE = {"width": 320, "height": 640}


def serious(page: Page) -> list[dict[str, Any]]:
    """axe-core's serious and critical findings, with what they are about."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run().then(result => result.violations)")
    grave = [finding for finding in found if finding["impact"] in ("serious", "critical")]
    return [{finding["id"]: [node["html"] for node in finding["nodes"]]} for finding in grave]


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def smallest_target(page: Page) -> float:
    """The smaller side of the smallest control that can be seen, in pixels."""
    sides = "all => all.map(e => e.getBoundingClientRect()).filter(r => r.width).map(r => Math.min(r.width, r.height))"
    return float(min(page.locator("button, select, [role=option], nav a").evaluate_all(sides)))


def see_results(page: Page, site: Site) -> None:
    """By the first page, which lets a browser in."""
    page.goto(site.url)
    page.get_by_role("link", name="Results").click()


@pytest.fixture(scope="module")
def used_site(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Site]:
    """Two rounds that two raters answered, and a third that waits."""
    site = Site(tmp_path_factory.mktemp("used"), optimizer(4, 2), 100, annotators=2, media="video")
    pages = [browser.new_context().new_page() for _ in range(2)]
    shown = [[""], [""]]
    for page in pages:
        page.goto(site.url)
    for number in range(2):
        for which, page in enumerate(pages):
            next_round(page, shown[which])
            shown[which] = clips(page)
            values = site.values(shown[which])
            ranked = sorted(range(len(values)), key=values.__getitem__)
            if (which, number) == (1, 0):
                ranked[:2] = ranked[1::-1]
            press(page, " ".join(str(i + 1) for i in ranked) + " Enter")
        wait_until(lambda wanted=number + 1: site.consumed() == wanted, "both answers are used")
    for page in pages:
        page.context.close()
    yield site
    site.close()


def assert_accessible(page: Page) -> None:
    """In both colour schemes, and without a need to scroll sideways."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        assert serious(page) == [], scheme
    assert overflow(page) <= 0


def test_ranking_is_accessible(shared_site: Site, new_page: NewPage) -> None:
    page = new_page(shared_site.url)
    clips(page)
    press(page, "3 5 t")
    assert_accessible(page)
    page.set_viewport_size(TALLER_THAN_WIDE)
    press(page, "7")
    assert_accessible(page)
    assert smallest_target(page) >= 24, "WCAG 2.2, 2.5.8"
    press(page, "?")
    assert_accessible(page)


def test_results_are_accessible(used_site: Site, new_page: NewPage) -> None:
    page = new_page(used_site.url, viewport=TALLER_THAN_WIDE)
    see_results(page, used_site)
    page.get_by_text("The same data as a table").click()
    assert_accessible(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    assert overflow(page) <= 0


def test_waiting_is_accessible(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site()
    new_page(site.url).wait_for_selector("[role=option]")
    page = new_page(site.url, viewport=TALLER_THAN_WIDE)
    expect(page.locator(".waiting")).to_contain_text("Waiting for 1 more answer")
    assert_accessible(page)


def test_the_link_lets_in_one_browser_and_the_refusal_is_accessible(new_site: NewSite, new_page: NewPage) -> None:
    token = "a token for this test only"
    site = new_site(token=token)
    page = new_page(site.url, viewport=TALLER_THAN_WIDE)
    expect(page.get_by_role("heading", name="This page needs its link")).to_be_visible()
    assert_accessible(page)
    page.goto(f"{site.url}/?token={token}")
    expect(page.get_by_role("heading", name="blocks")).to_be_visible()
    assert_accessible(page)
    page.set_viewport_size({"width": 320, "height": 600})
    assert overflow(page) <= 0
    page.keyboard.press("Enter")  # the button has the focus
    clips(page)
    assert page.url == f"{site.url}/", "the token does not stay in the address"
    other = new_page(f"{site.url}/?token={token}")
    other.get_by_role("button", name="Begin").click()
    expect(other.get_by_text("has let in as many browsers as it allows")).to_be_visible()


def test_raters_choose_their_names_by_keyboard_and_without_scripts(new_site: NewSite, new_page: NewPage) -> None:
    token = "a token for this test only"
    site = new_site(token=token, names=("Ada", "Grace " + "of a very long name " * 3), annotators=2)
    page = new_page(f"{site.url}/?token={token}", viewport=TALLER_THAN_WIDE)
    assert_accessible(page)
    page.set_viewport_size({"width": 320, "height": 600})
    assert overflow(page) <= 0
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    clips(page)
    plain = new_page(f"{site.url}/?token={token}", java_script_enabled=False)
    expect(plain.get_by_role("radio")).to_have_count(1)
    plain.get_by_role("button", name="Begin").click()
    assert "token=" in plain.url, "nobody gets in without saying who"
    plain.get_by_role("radio").check()
    plain.get_by_role("button", name="Begin").click()
    expect(plain.get_by_role("button", name="Submit")).to_be_visible()


def test_the_plain_form_appears_where_the_script_does_not_and_is_accessible(
    shared_site: Site, new_page: NewPage
) -> None:
    """axe-core itself needs scripts, so the page's own one is kept away instead."""
    page = new_page("about:blank", viewport=TALLER_THAN_WIDE)
    page.route("**/page.js", lambda route: route.abort())
    page.goto(shared_site.url)
    expect(page.get_by_role("button", name="Submit")).to_be_visible(timeout=10_000)
    assert_accessible(page)


def test_a_round_by_tab_and_screen_reader_names(shared_site: Site, new_page: NewPage) -> None:
    page = new_page(shared_site.url)
    clips(page)
    for landmark in ("banner", "main", "navigation"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=2)).to_have_text("Put the 3 best of 12 images in order")
    expect(page.get_by_role("listbox", name="The images")).to_be_visible()
    press(page, "Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press(page, "Tab Tab Tab")
    expect(page.get_by_role("option", name="Image 1, not placed")).to_be_focused()
    press(page, "ArrowRight k")
    expect(page.get_by_role("option", name="Image 2, 1st place")).to_be_focused()
    press(page, "Tab Tab")
    expect(page.get_by_role("button", name="Take out: image 2")).to_be_focused()


def places_of(page: Page) -> dict[str, Any]:
    """The number fields of the plain form by clip."""
    return {
        str(field.get_attribute("name")).removeprefix("place-"): field
        for field in page.locator("input[type=number]").all()
    }


def test_a_round_without_scripts(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=3, undo_seconds=600.0)
    page = new_page(site.url, java_script_enabled=False)
    fields = places_of(page)
    shown = list(fields)
    expect(page.locator("#plain img")).to_have_count(4)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("at least one")
    for clip, place in zip(shown[:3], ("2", "1", "2"), strict=True):
        places_of(page)[clip].fill(place)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="One moment")).to_be_visible()
    page.get_by_role("button", name="Undo the last answer").click()
    expect(page.locator("#plain img")).to_have_count(4)
    assert [fields.input_value() for fields in places_of(page).values()] == ["2", "1", "2", ""]
    places_of(page)[shown[3]].fill("3")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="One moment")).to_be_visible()
    first, second = site.answers()
    assert first["withdrawn_at"] is not None
    assert [len(tier) for tier in json.loads(first["tiers"])] == [1, 2] and len(json.loads(first["unranked"])) == 1
    assert [len(tier) for tier in json.loads(second["tiers"])] == [1, 2, 1] and json.loads(second["unranked"]) == []


def test_results_without_scripts(used_site: Site, new_page: NewPage) -> None:
    page = new_page(used_site.url, java_script_enabled=False)
    see_results(page, used_site)
    expect(page.locator("#plain [aria-label=Rounds] tbody tr")).to_have_count(2)
    assert overflow(page) <= 0


def test_results_say_how_far_and_how_much_in_common(used_site: Site, new_page: NewPage) -> None:
    page = new_page(used_site.url)
    see_results(page, used_site)
    given = page.request.get(f"{used_site.url}/api/results").json()
    way = [round_["distance_from_start"] for round_ in given["rounds"]]
    assert len(way) == 2 and way[-1] > 0
    expect(page.get_by_role("img", name="Line chart")).to_be_visible()
    expect(page.locator(".chart .dot")).to_have_count(2)
    heights = page.locator(".chart .dot").evaluate_all("dots => dots.map(dot => Number(dot.getAttribute('cy')))")
    assert (heights[0] > heights[1]) == (way[0] < way[1]), "farther is higher"
    page.get_by_text("The same data as a table").click()
    rows = page.locator("[aria-label=Rounds] tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("direction")
    cells = [float(rows.nth(i).locator("td").nth(1).inner_text()) for i in range(2)]
    assert cells == pytest.approx(way, rel=0.01)
    expect(page.get_by_text("2 raters answered 2 rounds together")).to_contain_text(
        f"{round(100 * given['agreement']['pairwise'])} %"
    )
    beside = page.locator("[aria-label=Raters] tbody tr")
    expect(beside).to_have_count(2)
    for index, rater in enumerate(given["raters"]):
        words = f"{rater['name']}{rater['rounds']}{round(100 * rater['pairwise'])} %–"
        expect(beside.nth(index)).to_contain_text(words)
        assert 0 <= rater["trust"] <= 1, "both have seen the same clips"
    videos = page.locator("figure video")
    expect(videos).to_have_count(2)
    expect(videos.first).to_have_js_property("readyState", 4)
    text = page.locator("main").inner_text()
    assert "hidden" not in text and "return" not in text.lower()
