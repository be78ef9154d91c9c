"""One binary ONNX model behind gRPC: `python -m predictor --help`."""

import os

# Importing ONNX Runtime would begin to send telemetry from a thread of its own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
