"""Generated messages that travel through the broker. Internal: not part of the public API."""
