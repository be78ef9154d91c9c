"""What every server process shares besides gRPC: settings, logs, tasks, and its start and end."""
