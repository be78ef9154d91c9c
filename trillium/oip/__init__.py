"""The Open Inference Protocol, version 2: what aggregator and predictor share of it.

`model` is what a server has to provide (the port `Models`), `reading` turns a request into
checked rows, `writing` turns probabilities into outputs, `describing` describes models, and
`service` puts them together. The messages in `open_inference_pb2` live in a descriptor pool of
their own, so that other clients of the protocol can be imported in the same process.
"""
