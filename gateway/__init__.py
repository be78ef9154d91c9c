"""The HTTP door: Trillium's gRPC services as HTTP and JSON, and nothing of its own behind it."""
