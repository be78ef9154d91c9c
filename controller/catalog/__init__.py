"""The models that can be deployed and the datasets that can be scored."""
