"""Whole studies in a real browser: what reaches the optimiser, and what survives reloads, restarts and second tabs."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect
from ranking_page import clips, next_round, order, press, says
from ranking_site import Site, simulated, wait_until
from ranking_study import answer_all, objective, optimizer

from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.feedback.protocol import StudyProtocol
from rlopt.feedback.ranking import Ranking

pytestmark = pytest.mark.ui

NewPage = Callable[..., Page]
NewSite = Callable[..., Site]


def best_first(site: Site, page: Page) -> list[str]:
    """The keys of the clips on the page, the best first."""
    values = site.values(clips(page))
    return [str(i + 1) for i in sorted(range(len(values)), key=values.__getitem__)]


def test_a_study_by_keyboard_ends_where_the_exact_oracle_ends(new_site: NewSite, new_page: NewPage) -> None:
    rounds = 4
    site = new_site(m=5, k=3, rounds=rounds, media="video")
    page = new_page(site.url)
    for number in range(rounds):
        shown = clips(page)
        line_search = "Pick the best" in page.locator("#task").inner_text()
        for key in best_first(site, page)[: 1 if line_search else 3]:
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        if number + 1 < rounds:
            next_round(page, shown)
    expect(page.locator("#task")).to_have_text("Finished")
    assert site.consumed() == rounds and len(site.answers()) == rounds
    assert site.digest() == simulated(optimizer(5, 3), rounds)
    assert all(row["seconds"] >= 0 for row in site.answers())


def test_after_the_study_nothing_is_said_about_a_server_that_has_ended(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=1, rounds=1)
    page = new_page(site.url)
    clips(page)
    press(page, "1 Enter")
    expect(page.locator("#task")).to_have_text("Finished")
    site.stop_server()
    with page.expect_event("requestfailed"):
        pass
    page.wait_for_timeout(300)
    expect(page.get_by_text("does not answer")).to_be_hidden()
    expect(page.get_by_text("The study is finished: thank you.")).to_be_visible()


def test_a_tie_reaches_the_optimiser_as_one_tier(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=3)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "2 4 t 1 Enter")
    wait_until(lambda: site.answers(), "the answer is stored")
    stored = site.answers()[0]
    by_value = {float(value): slot for slot, value in enumerate(objective(optimizer(4, 3).ask().candidates))}
    slots = [by_value[value] for value in site.values(shown)]
    assert [sorted(tier) for tier in json.loads(stored["tiers"])] == [sorted([slots[1], slots[3]]), [slots[0]]]
    assert json.loads(stored["unranked"]) == [slots[2]]


def test_undo_steps_back_and_then_reopens_the_answer(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(undo_seconds=600.0)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "3 1")
    assert order(page) == ["1st 3", "2nd 1"]
    press(page, "z")
    assert order(page) == ["1st 3"]
    press(page, "4 Enter")
    expect(page.locator(".waiting")).to_be_visible()
    assert site.consumed() == 0
    press(page, "z")
    says(page, "open again")
    assert clips(page) == shown and order(page) == ["1st 3", "2nd 4"]
    press(page, "k Enter")
    says(page, "Saved")
    first, second = site.answers()
    assert (first["revision"], second["revision"]) == (1, 2)
    assert first["withdrawn_at"] is not None and second["withdrawn_at"] is None
    assert first["tiers"] != second["tiers"]


def test_a_consumed_answer_is_not_undone(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site()
    page = new_page(site.url)
    shown = clips(page)
    press(page, "1 2 Enter")
    next_round(page, shown)
    press(page, "z")
    says(page, "no answer left to undo")


def test_a_reload_keeps_the_round_its_order_and_the_undo_steps(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=6, k=4)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "5 2 t 6")
    page.reload()
    assert clips(page) == shown and order(page) == ["1st = 5", "1st = 2", "3rd 6"]
    says(page, "is back")
    press(page, "z z")
    assert order(page) == ["1st 5", "2nd 2"]


def test_an_order_outlives_its_tab(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=6, k=4)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "5 2")
    context = page.context
    page.close()
    again = context.new_page()
    again.goto(site.url)
    assert clips(again) == shown and order(again) == ["1st 5", "2nd 2"]


def test_an_order_of_a_clip_that_does_not_load_is_not_sent(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=2)
    page = new_page("about:blank")
    asked: list[str] = []

    def break_first(route: Route) -> None:
        asked.append(route.request.url)
        if route.request.url == asked[0]:
            route.abort()
        else:
            route.continue_()

    page.route("**/media/*", break_first)
    page.goto(site.url)
    clips(page)
    page.wait_for_function("[...document.querySelectorAll('.board img')].every(image => image.complete)")
    press(page, "1 2 Enter")
    says(page, "did not load and cannot be judged")
    press(page, "s s")
    wait_until(lambda: len(site.answers()) == 1, "the round is skipped")
    assert site.answers()[0]["abstain"]


def test_a_tab_in_which_nothing_happens_gives_its_round_up(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=2, lease_seconds=2.0)
    idle, other = new_page(site.url), new_page(site.url)
    shown = clips(idle)
    expect(other.locator(".waiting")).to_be_visible()
    assert sorted(clips(other)) == sorted(shown), "after two seconds without a touch"
    press(idle, "1")
    expect(idle.get_by_role("alert")).to_contain_text("somebody else")


def test_an_answer_cut_off_by_a_reload_counts_once(new_site: NewSite, new_page: NewPage) -> None:
    """The server gets the answer, the page never hears of it, and sends it again with the same key."""
    site = new_site(m=4, k=2)
    page = new_page(site.url)
    shown = clips(page)
    keys: list[str] = []
    reloaded = False

    def swallow(route: Route) -> None:
        keys.append(route.request.post_data_json["key"])
        if len(keys) == 1:
            route.fetch()
        if reloaded:
            route.continue_()
        else:
            route.abort()

    page.route("**/answer", swallow)
    press(page, "1 2 Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    reloaded = True
    page.reload()
    next_round(page, shown)
    assert len(keys) >= 2 and len(set(keys)) == 1
    assert len(site.answers()) == 1 and site.consumed() == 1


def test_a_restarted_server_costs_nothing(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=2)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "4")
    site.stop_server()
    press(page, "2 Enter")
    expect(page.get_by_role("alert")).to_contain_text("Your order is kept")
    assert order(page) == ["1st 4", "2nd 2"]
    site.start_server()
    page.get_by_role("button", name="Try now").click()
    next_round(page, shown)
    assert len(site.answers()) == 1
    expect(page.get_by_role("alert")).not_to_be_visible()


def test_a_lost_session_costs_nothing_once_it_is_back(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=2)
    page = new_page(site.url)
    shown = clips(page)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    press(page, "3 2 Enter")
    expect(page.get_by_role("alert")).to_contain_text("no longer signed in")
    assert order(page) == ["1st 3", "2nd 2"] and not site.answers()
    page.context.add_cookies(cookies)
    page.get_by_role("button", name="Try now").click()
    next_round(page, shown)
    assert len(site.answers()) == 1


def test_a_lost_hold_is_told_and_the_next_round_comes(new_site: NewSite, new_page: NewPage) -> None:
    """Somebody else answers while this page sleeps."""
    site = new_site(m=4, k=2, lease_seconds=0.6, rounds=2)
    sleeper = new_page(site.url)
    shown = clips(sleeper)
    press(sleeper, "3")
    sleeper.route("**/renew", lambda route: route.abort())
    sleeper.wait_for_timeout(800)
    other = new_page(site.url)
    next_round(other, [""])
    press(other, "1 2 Enter")
    wait_until(lambda: site.consumed() == 1, "the other answer is used")
    sleeper.unroute("**/renew")
    press(sleeper, "1 Enter")
    expect(sleeper.get_by_role("alert")).to_contain_text("gone on")
    expect(sleeper.locator(f"[data-id='{shown[2]}']")).to_have_count(0)
    assert len(site.answers()) == 1 and site.consumed() == 1


def test_two_tabs_of_one_rater_go_on_together(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=2)
    one = new_page(site.url)
    shown = clips(one)
    two = one.context.new_page()
    two.goto(site.url)
    assert clips(two) == shown, "one browser is one rater, with one order of the clips"
    press(two, "2")
    press(one, "1 3 Enter")
    next_round(one, shown)
    next_round(two, shown)
    assert clips(one) == clips(two) and order(two) == []
    assert len(site.answers()) == 1


def test_skipping_asks_once_where_an_order_would_be_lost(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=2)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "1 s")
    says(page, "throws your order away")
    assert not site.answers()
    press(page, "s")
    next_round(page, shown)
    (stored,) = site.answers()
    assert stored["abstain"] and json.loads(stored["tiers"]) == []
    search = optimizer(4, 2)
    search.ask()
    search.tell([Ranking(tiers=(), abstain=True)])
    assert site.digest() == search.digest()


def test_too_few_places_are_sent_only_when_meant(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=3)
    page = new_page(site.url)
    shown = clips(page)
    press(page, "Enter")
    says(page, "at least one")
    press(page, "2 Enter")
    says(page, "Only 1 of 3")
    assert not site.answers()
    press(page, "Enter")
    next_round(page, shown)
    assert [len(tier) for tier in json.loads(site.answers()[0]["tiers"])] == [1]


def test_consent_rounds_that_wait_and_a_code_at_the_end(new_site: NewSite, new_page: NewPage) -> None:
    protocol = StudyProtocol(consent="You may stop at any time.", rounds_per_rater=2, completion_code="RL-7391",
                             completion_url="https://example.org/done?cc={code}")  # fmt: skip
    site = new_site(token="t" * 24, protocol=protocol, search=ParallelSearch(optimizer(4, 2), 1, 1))
    page = new_page("about:blank")
    page.clock.install()
    page.goto(f"{site.url}/?token={'t' * 24}")
    expect(page.get_by_text("You may stop at any time.")).to_be_visible()
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("checkbox")).to_be_focused()
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Begin").click()
    expect(page.locator(".facts")).to_contain_text("Round 1 of 2")
    shown = clips(page)
    press(page, "1 2 Enter")
    next_round(page, shown)
    expect(page.locator(".facts")).to_contain_text("Round 2 of 2")
    press(page, "2 1 Enter")
    expect(page.get_by_text("RL-7391")).to_be_visible()
    page.route("https://example.org/**", lambda route: route.fulfill(body="Thank you", content_type="text/plain"))
    page.clock.fast_forward(10_000)
    page.wait_for_url("https://example.org/done?cc=RL-7391")
    kinds = site.events()
    assert kinds.count("consent") == 1 and kinds.count("answered") == 2


def test_a_training_round_shows_the_experts_order_until_the_rater_goes_on(new_site: NewSite, new_page: NewPage) -> None:
    site = new_site(m=4, k=4, search=ParallelSearch(optimizer(4, 4), 1, 1), protocol=StudyProtocol(training_rounds=1))
    expert = site.store.add_rater(site.study.study, "expert")
    site.store.set_expert(site.study.study, expert.public_id)
    wait_until(lambda: "opened" in site.events(), "there is a round")
    answer_all(site.study, [expert.id], "a")
    page = new_page(site.url)
    shown = clips(page)
    expect(page.locator("#task")).to_contain_text("Training: ")
    best = best_first(site, page)
    press(page, " ".join([*best[::-1], "Enter"]))
    says(page, "in 0 of 6 pairs")
    assert [row.split()[1] for row in order(page)] == best
    expect(page.get_by_text(f"Your order was {', then '.join(best[::-1])}.")).to_be_visible()
    press(page, "1 z s")
    assert clips(page) == shown and [row.split()[1] for row in order(page)] == best, "it is over"
    press(page, "Enter")
    next_round(page, shown)
    expect(page.locator("#task")).not_to_contain_text("Training")
    assert len(site.answers()) == 2
