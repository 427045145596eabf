"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Version of the installed xlmstream package; "0+source" where it runs from a source tree that is not installed."""
    try:
        return version("xlmstream")
    except PackageNotFoundError:
        return "0+source"
