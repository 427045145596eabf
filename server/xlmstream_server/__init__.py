"""The gateway: gRPC in front, broker behind. Holds no model files and no torch."""
