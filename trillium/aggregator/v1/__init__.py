"""Generated messages and stubs of `trillium.aggregator.v1`; its protos have the comments."""
