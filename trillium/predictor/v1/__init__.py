"""Generated messages and stubs of `trillium.predictor.v1`; its protos have the comments."""
