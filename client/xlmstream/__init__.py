"""xlmstream: the client of the XLM inference service."""

__version__ = "0.1.0"
