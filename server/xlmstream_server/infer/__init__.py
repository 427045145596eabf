"""InferStream: any number of items of any tasks over one call.

`session` is the flow of one call, `batch` turns items into the requests of their tasks, `outbox` turns what came of
them into messages.
"""
