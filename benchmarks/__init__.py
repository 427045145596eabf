"""Benchmarks: each file measures one part against a named baseline in the same run.

`python -m benchmarks` runs them all; `python -m benchmarks.system --help` (and so on) one of them.
"""
