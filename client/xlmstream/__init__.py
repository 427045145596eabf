"""xlmstream: the client of the XLM inference service."""
