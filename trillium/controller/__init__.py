"""Home of the versions of the proto package `trillium.controller`."""
