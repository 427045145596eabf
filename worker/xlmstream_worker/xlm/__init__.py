"""The XLM library: configuration, tokenizer, models and checkpoints. Usable alone; knows nothing of serving."""

from .cache import KVCache as KVCache
from .config import XLMConfig as XLMConfig
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import XLMError as XLMError
from .language_model import XLMWithLMHeadModel as XLMWithLMHeadModel
from .model import XLMModel as XLMModel
from .tokenizer import XLMTokenizer as XLMTokenizer
