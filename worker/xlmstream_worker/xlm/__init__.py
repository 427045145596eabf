"""The XLM library: configuration, tokenizer, models and checkpoints. Usable alone; knows nothing of serving."""

from xlmstream_worker.xlm.tokenizer import XLMTokenizer

__all__ = ["XLMTokenizer"]
