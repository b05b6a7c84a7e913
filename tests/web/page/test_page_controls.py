"""Keys, buttons, dragging and playback on one round of twelve clips, which every test sees as a rater of its own."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect
from ranking_page import clips, order, press, says
from ranking_site import FPS, Site
from ranking_study import optimizer

pytestmark = pytest.mark.ui

NewPage = Callable[..., Page]
TIMES = "videos => videos.map(video => video.currentTime)"


@pytest.fixture
def page(shared_site: Site, new_page: NewPage) -> Page:
    opened = new_page(shared_site.url)
    assert len(clips(opened)) == 12
    return opened


def test_two_digits_name_a_clip_and_one_digit_waits_for_the_other(page: Page) -> None:
    press(page, "1 2")
    assert order(page) == ["1st 12"]
    press(page, "1")
    says(page, "a second digit for 10, 11 or 12")
    assert order(page) == ["1st 12"]
    press(page, "Enter")
    assert order(page) == ["1st 12", "2nd 1"], "Enter takes the half number and sends nothing"
    press(page, "4 0 1 ArrowRight")
    assert order(page) == ["1st 12", "2nd 4"], (
        "4 is whole at once, 0 names nothing, another key ends 1 and takes it out"
    )
    press(page, "1")
    expect(page.locator(".row")).to_have_count(3)


KEYS = [
    ("3 5 7", ["1st 3", "2nd 5", "3rd 7"]),
    ("3 5 7 k", ["1st 3", "2nd 7", "3rd 5"]),
    ("3 5 7 k k k", ["1st 7", "2nd 3", "3rd 5"]),
    ("3 5 7 t", ["1st 3", "2nd = 5", "2nd = 7"]),
    ("3 5 t 7", ["1st = 3", "1st = 5", "3rd 7"]),
    ("3 5 7 t t", ["1st 3", "2nd 5", "3rd 7"]),
    ("3 5 t 7 t 9", ["1st = 3", "1st = 5", "1st = 7", "4th 9"]),
    ("3 5 7 t k", ["1st 3", "2nd 7", "3rd 5"]),
    ("3 5 7 t k j", ["1st 3", "2nd 5", "3rd 7"]),
    ("3 5 7 j", ["1st 3", "2nd 5"]),
    ("3 5 7 u", ["1st 3", "2nd 5"]),
    ("3 5 7 5", ["1st 3", "2nd 7"]),
    ("3 5 7 z z", ["1st 3"]),
    ("3 ArrowRight k ArrowDown k", ["1st 3", "2nd 4", "3rd 7"]),
    ("End k Home t", ["1st = 12", "1st = 1"]),
    ("3 5 K T", ["1st 5", "2nd 3"]),
]


def test_keys(page: Page) -> None:
    for keys, expected in KEYS:
        press(page, f"Home {keys}")
        assert order(page) == expected, keys
        places = {row.split()[-1]: row.rpartition(" ")[0] for row in expected}
        assert marks(page) == places, keys
        chosen = page.locator("[role=option][aria-selected=true]").evaluate_all(
            "cards => cards.map(c => c.dataset.number)"
        )
        assert set(chosen) == set(places), keys
        while order(page):
            press(page, "z")


def marks(page: Page) -> dict[str, str]:
    """The place that is written on each clip that has one, by its number."""
    read = "cards => cards.map(card => [card.dataset.number, card.querySelector('.place').textContent])"
    return {number: place for number, place in page.locator(".clip").evaluate_all(read) if place}


def test_buttons_do_what_keys_do_and_keep_the_focus(page: Page) -> None:
    for number in (2, 6, 8):
        page.get_by_role("option", name=re.compile(f"^Image {number},")).click()
    page.get_by_role("button", name="Better: image 8").click()
    assert order(page) == ["1st 2", "2nd 8", "3rd 6"]
    expect(page.get_by_role("button", name="Better: image 8")).to_be_focused()
    page.keyboard.press("Enter")
    assert order(page) == ["1st 8", "2nd 2", "3rd 6"]
    page.get_by_role("button", name="Tie with the one before: image 6").click()
    assert order(page) == ["1st 8", "2nd = 2", "2nd = 6"]
    page.get_by_role("button", name="Worse: image 8").click()
    page.get_by_role("button", name="Take out: image 2").click()
    assert order(page) == ["1st 6", "2nd 8"]
    assert page.evaluate("document.activeElement !== document.body"), "the focus stays in the list when a row goes"
    page.get_by_role("option", name="Image 6, 1st place").click()
    assert order(page) == ["1st 8"]


def drag(page: Page, source: Locator, target: Locator, at: float) -> None:
    """Drags from the middle of ``source`` to the height ``at`` of ``target``, 0 the top and 1 the bottom."""
    start, end = source.bounding_box(), target.bounding_box()
    assert start and end
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + at * end["height"], steps=4)
    page.mouse.up()


def test_dragging_places_ties_and_moves(page: Page) -> None:
    panel, card, row = page.locator(".order"), page.locator(".clip"), page.locator(".row")
    drag(page, card.nth(4), panel, 0.5)
    drag(page, card.nth(1), row.nth(0), 0.05)
    assert order(page) == ["1st 2", "2nd 5"]
    drag(page, card.nth(2), row.nth(1), 0.5)
    assert order(page) == ["1st 2", "2nd = 5", "2nd = 3"]
    drag(page, row.nth(0).locator(".grip"), panel, 0.98)
    assert order(page) == ["1st = 5", "1st = 3", "3rd 2"]
    drag(page, card.nth(7), page.locator("#task"), 0.5)
    assert order(page) == ["1st = 5", "1st = 3", "3rd 2"], "dropped elsewhere it changes nothing"
    press(page, "z")
    assert order(page) == ["1st 2", "2nd = 5", "2nd = 3"]


def test_escape_ends_a_drag(page: Page) -> None:
    card = page.locator(".clip").first.bounding_box()
    panel = page.locator(".order").bounding_box()
    assert card and panel
    page.mouse.move(card["x"] + 20, card["y"] + 20)
    page.mouse.down()
    page.mouse.move(panel["x"] + 50, panel["y"] + 50, steps=3)
    expect(page.locator(".ghost")).to_be_visible()
    press(page, "Escape")
    page.mouse.up()
    expect(page.locator(".ghost")).to_have_count(0)
    assert order(page) == []


def test_help_tells_the_keys_and_can_switch_them_off(page: Page) -> None:
    press(page, "?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    press(page, "3")
    assert order(page) == [], "keys rest while the help is open"
    dialog.get_by_role("checkbox").uncheck()
    press(page, "Escape")
    expect(dialog).not_to_be_visible()
    press(page, "3 k")
    assert order(page) == []
    page.reload()
    clips(page)
    press(page, "3")
    assert order(page) == []
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Close").click()
    press(page, "3")
    assert order(page) == ["1st 3"]


def test_every_change_is_said(page: Page) -> None:
    press(page, "3")
    says(page, r"Image 3 is 1st\. 1 of 3 placed\.")
    press(page, "5 t")
    says(page, r"Image 5 is 1st, tied with image 3\.")
    press(page, "7")
    says(page, "All places are filled")
    press(page, "u")
    says(page, "Image 7 is not placed")
    assert page.get_by_role("status").get_attribute("aria-live") in (None, "polite")


@pytest.fixture(scope="module")
def video_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("video"), optimizer(4, 2), 100, annotators=1000, media="video")
    yield site
    site.close()


def seconds(page: Page) -> list[float]:
    return list(page.locator("video").evaluate_all(TIMES))


def videos_are(page: Page, condition: str) -> None:
    """Waits until the condition, JavaScript about a ``video``, holds for all of them."""
    page.wait_for_function(f"() => [...document.querySelectorAll('video')].every(video => {condition})")


def loaded(page: Page) -> None:
    clips(page)
    videos_are(page, "video.readyState >= 3")


def test_all_clips_play_pause_and_step_together(video_site: Site, new_page: NewPage) -> None:
    page = new_page(video_site.url)
    loaded(page)
    videos_are(page, "video.currentTime > 0.3")
    press(page, "Space")
    videos_are(page, "video.paused && !video.seeking")
    assert len({round(t * FPS) for t in seconds(page)}) == 1, "paused, all show one frame"
    press(page, "r . . .")
    videos_are(page, "!video.seeking")
    assert [int(t * FPS) for t in seconds(page)] == [3, 3, 3, 3]
    press(page, ",")
    expect(page.get_by_role("slider", name="Position")).to_have_attribute("aria-valuetext", re.compile("frame 3 of 24"))
    press(page, "] ]")
    expect(page.get_by_role("combobox", name="Speed")).to_have_value("4")
    assert set(page.locator("video").evaluate_all("videos => videos.map(video => video.playbackRate)")) == {4}


def test_a_clip_that_is_over_rests_on_its_last_frame(video_site: Site, new_page: NewPage) -> None:
    page = new_page(video_site.url, reduced_motion="reduce")
    loaded(page)
    page.get_by_role("slider", name="Position").fill("23")
    videos_are(page, "!video.seeking")
    lengths = page.locator("video").evaluate_all("videos => videos.map(video => video.duration)")
    frames = sorted({(int(t * FPS), round(length * FPS)) for t, length in zip(seconds(page), lengths, strict=True)})
    assert frames == [(15, 16), (19, 20), (23, 24)]


def test_less_motion_means_nothing_plays_by_itself(video_site: Site, new_page: NewPage) -> None:
    page = new_page(video_site.url, reduced_motion="reduce")
    loaded(page)
    page.wait_for_timeout(300)
    assert seconds(page) == [0, 0, 0, 0]
    assert page.locator("video").evaluate_all("videos => videos.every(video => video.paused)")
    running = "document.getAnimations().filter(animation => animation.playState === 'running').length"
    assert page.evaluate(running) == 0
    press(page, "Space")
    videos_are(page, "video.ended || video.currentTime > 1.4")
    videos_are(page, "video.paused")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_all_clips_fit_on_the_screen_and_one_can_be_large(
    video_site: Site, new_page: NewPage, width: int, height: int
) -> None:
    page = new_page(video_site.url, viewport={"width": width, "height": height})
    count = len(clips(page))
    bounds = "cards => cards.map(card => card.getBoundingClientRect().toJSON())"
    cards = page.locator(".board .clip")
    lowest = "document.querySelector('.actions').getBoundingClientRect().top" if width < 960 else "innerHeight"
    expect(page.get_by_role("button", name="Enlarge")).to_have_attribute("aria-pressed", "false")
    seen = cards.evaluate_all(bounds)
    assert max(each["bottom"] for each in seen) <= page.evaluate(lowest), "nobody scrolls to see a clip"
    press(page, "ArrowRight e")
    expect(page.locator(".board .clip:visible")).to_have_count(1)
    says(page, "Only clip 2")
    assert page.locator(".board .clip:visible").bounding_box()["width"] > seen[1]["width"]  # type: ignore[index]
    press(page, "ArrowRight")
    expect(page.locator(".board .clip:visible .number")).to_have_text("3")
    page.get_by_role("button", name="Enlarge").click()
    expect(page.locator(".board .clip:visible")).to_have_count(count)


def test_one_clip_plays_alone(video_site: Site, new_page: NewPage) -> None:
    page = new_page(video_site.url)
    clips(page)
    press(page, "e")
    videos = page.locator(".board video")
    page.wait_for_function("() => !document.querySelector('.board video').paused")
    assert videos.evaluate_all("videos => videos.map(video => video.paused)")[1:] == [True] * (videos.count() - 1)
    press(page, "e")
    page.wait_for_function("() => [...document.querySelectorAll('.board video')].some((v, i) => i && !v.paused)")
