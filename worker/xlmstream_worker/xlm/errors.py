"""The exceptions of the library, as a tree.

XLMError
├── ConfigError       a configuration value that cannot be meant; names the field
└── CheckpointError   a file that is missing, damaged or does not fit; names the file and the tensor

Both are ValueErrors too, so code written for the documented classes, which raise ValueError, keeps working.
"""


class XLMError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(XLMError, ValueError):
    """A configuration field has a value no XLM model can have."""


class CheckpointError(XLMError, ValueError):
    """A checkpoint is missing, unreadable, or does not fit the model it is loaded into."""
