"""What is known of a model, each thing once: for the services, the CLI and the training alike."""
