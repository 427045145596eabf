"""Chunks of jobs: cut into parts that run as requests do, and put together again from what came of those."""
