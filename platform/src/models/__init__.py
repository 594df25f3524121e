"""Names under which older workflow files import the SDK."""
