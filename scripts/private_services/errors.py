"""The one error that is shown to the person at the keyboard as it is."""


class ServiceError(Exception):
    """Something a person must act on; the text says what."""
