"""What `scripts/services` is made of: state, processes, binaries, and one module per service."""

NAMES = ("postgres", "rabbitmq", "redis")
