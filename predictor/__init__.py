"""One binary ONNX model behind gRPC: `python -m predictor --help`."""
