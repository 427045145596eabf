"""The gRPC services: each method checks, delegates and answers; none knows the broker's keys or gRPC's traps."""
