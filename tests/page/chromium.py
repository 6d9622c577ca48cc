"""Launches the browser of these tests: a headless Chromium without background network traffic."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from playwright.async_api import Browser, Playwright

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--font-render-hinting=none",
]


def _installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("browser_script", ROOT / "deploy" / "browser.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


installer = _installer()


async def launch(playwright: Playwright) -> Browser:
    return await playwright.chromium.launch(
        executable_path=installer.executable(),
        env=installer.environment(),
        # The sandbox needs privileges that containers lack; the browser opens only the service's own page.
        chromium_sandbox=False,
        args=FLAGS,
    )
