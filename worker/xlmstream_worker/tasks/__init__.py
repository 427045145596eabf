"""What a worker can do with a request: one module a task, from its public message to its events."""
