"""Generated messages and stubs of `trillium.controller.v1`; its protos have the comments."""
