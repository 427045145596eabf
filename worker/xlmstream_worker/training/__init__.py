"""Train XLM models: vocabulary, pre-training objectives, fine-tuned heads, and the figures of their model cards.

Builds on `xlmstream_worker.xlm` alone; knows nothing of serving. Data flow of one training: `recipe` (what to train)
-> `corpus` (text to ids) -> `batches` -> `objectives` -> `trainer` -> `checkpoint` -> `export` -> `card`.
"""
