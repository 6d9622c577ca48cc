"""Checks for the extra `[bench]`: the packages that only the benchmark needs."""

from importlib.util import find_spec

from domain.errors import ConfigurationError

PACKAGE = "pygal"
"""Draws the charts of report.html."""


def require_extra() -> None:
    """Check that the extra is installed, before any module that imports it is loaded.

    Raises:
        ConfigurationError: it is not; the message says how to install it.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigurationError(
            "`memoria bench` needs the extra [bench], which is not installed: run `make install-bench` in a "
            "checkout, or `pip install 'memoria-vllm[bench]'`."
        )
