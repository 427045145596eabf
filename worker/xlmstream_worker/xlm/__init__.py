"""The XLM library: configuration, tokenizer, models and checkpoints. Usable alone; knows nothing of serving."""
