"""Generated messages and stubs of `trillium.tensor.v1`; its protos have the comments."""
