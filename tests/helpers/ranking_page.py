"""What a person does on the ranking page, and sees there."""

import re

from playwright.sync_api import Page, expect


def clips(page: Page) -> list[str]:
    """The ids of the clips, in the order in which they lie there, once they do."""
    page.wait_for_selector("[role=option]")
    return page.locator("[role=option]").evaluate_all("cards => cards.map(card => card.dataset.id)")


def order(page: Page) -> list[str]:
    """The order on the page, such as ["1st 3", "2nd = 1", "2nd = 5"]."""
    text = "row => row.querySelector('.rank').textContent + ' ' + row.querySelector('.number').textContent"
    return list(page.locator(".row").evaluate_all(f"rows => rows.map({text})"))


def press(page: Page, keys: str) -> None:
    """Presses keys that are named with blanks between them."""
    for key in keys.split():
        page.keyboard.press({"Space": " "}.get(key, key))


def says(page: Page, text: str) -> None:
    """Waits until the status line has the text."""
    expect(page.get_by_role("status")).to_contain_text(re.compile(text))


def next_round(page: Page, before: list[str]) -> None:
    """Waits until other clips are there."""
    page.wait_for_function(
        "old => { const card = document.querySelector('[role=option]'); return card && card.dataset.id !== old; }",
        arg=before[0],
    )
