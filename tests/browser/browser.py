"""A headless Chromium, driven by WebDriver: Debian's packages `chromium` and `chromium-driver` (make setup-browser)."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless",
    "--no-sandbox",  # for root, as in containers of CI; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WITHIN_S = 30.0
_T = TypeVar("_T")


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        self._driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        return self._driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """What everything that matches says, in a drawing too; at one moment, since the page redraws itself."""
        found: list[str] = self.run(
            "return Array.from(document.querySelectorAll(arguments[0]), found => found.textContent)", selector
        )
        return found

    def until(self, probe: Callable[[], _T | None], what: str) -> _T:
        """The first truthy value."""
        try:
            found: _T = WebDriverWait(self._driver, WITHIN_S, poll_frequency=0.1).until(lambda _: probe())
        except TimeoutException:
            raise AssertionError(f"not within {WITHIN_S:g} s: {what}; the page: {self.texts('body')}") from None
        return found

    def complaints(self) -> list[str]:
        """What the page has logged since they were asked for last: errors, refusals of its policy."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def look_like(self, *, width: int, height: int, scheme: str) -> None:
        """Size of the window, and `dark` or `light`."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def photograph(self, file: str) -> None:
        """A PNG of what is to be seen."""
        self._driver.save_screenshot(file)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A window with a fresh profile; nothing is left of it."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
        driver.set_page_load_timeout(WITHIN_S)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
