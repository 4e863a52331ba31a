# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A person opens the page in a browser and makes a picture with it."""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1500",
    # The host has signed its certificate itself; a person compares the fingerprint and goes on.
    "--ignore-certificate-errors",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Debian's headless Chromium; what the page logs is kept."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def field(browser: webdriver.Chrome, label: str, selector: str) -> WebElement:
    """The input that belongs to a label of the form."""
    for item in browser.find_elements(By.CSS_SELECTOR, ".el-form-item"):
        if item.text.strip("* \n").startswith(label):
            return item.find_element(By.CSS_SELECTOR, selector)
    raise AssertionError(f"the page has no field {label}")


def fill(browser: webdriver.Chrome, label: str, selector: str, value: str) -> None:
    """Type a value over what a field holds."""
    element = field(browser, label, selector)
    element.send_keys(Keys.CONTROL, "a")
    element.send_keys(value, Keys.TAB)


FORM = (
    ("Prompt", "textarea", "asuka langley sitting cross legged on a chair"),
    ("Steps", "input[type=number]", "1"),
    ("Width", "input[type=number]", "64"),
    ("Height", "input[type=number]", "64"),
)


def filled(browser: webdriver.Chrome) -> bool:
    """Whether the form holds what it should; what differs is typed, because a page that still loads may set its own."""
    wrong = [entry for entry in FORM if field(browser, *entry[:2]).get_property("value") != entry[2]]
    for entry in wrong:
        fill(browser, *entry)
    return not wrong


def test_makes_a_picture_from_the_page(browser: webdriver.Chrome, page_urls: list[str]) -> None:
    screenshots = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    for url in page_urls:
        browser.get(url)
    WebDriverWait(browser, 300).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".generate-cancel-btn"))
    browser.save_screenshot(str(screenshots / "page.png"))

    WebDriverWait(browser, 300, poll_frequency=2).until(filled)
    browser.find_element(By.CSS_SELECTOR, ".generate-cancel-btn").click()

    find = "return [...document.images].map(i => [i.src, i.naturalWidth, i.naturalHeight]).filter(i => i[1] >= 64)"
    source, width, height = WebDriverWait(browser, 900).until(lambda page: page.execute_script(find))[0]
    browser.save_screenshot(str(screenshots / "picture.png"))
    assert (width, height) == (64, 64)
    if source.startswith("data:image/png;base64,"):
        header = base64.b64decode(source.partition(",")[2])[:24]
        assert struct.unpack(">II", header[16:24]) == (64, 64)

    severe = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert severe == []
