"""The worker: one loaded model per process, a scheduler, a cache-enabled decoder."""
