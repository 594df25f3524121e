"""What `signature=` of a decorator asks for, as the complete rule that the api verifies requests by.

A scheme fills in how a service signs, so that a file says no more than which secret it shares with whom.
Whatever cannot be used raises: an endpoint must not be open because its signature was misspelt.
"""

from __future__ import annotations

import re
from typing import Any

DAY = 86_400

_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}\Z")
_SECRET = re.compile(r"[a-zA-Z0-9_-]{1,100}\Z")

_RULE: dict[str, Any] = {
    "secret": None,
    "header": "X-Signature",
    "algorithm": "sha256",
    "encoding": "hex",
    "prefix": "",
    "separator": None,
    "content": "{body}",
    "timestamp_header": None,
    "timestamp_prefix": None,
    "tolerance_seconds": 300,
    "event_id_header": None,
    "secret_base64_prefix": None,
}

SCHEMES: dict[str, dict[str, Any]] = {
    "hmac": {},
    "github": {
        "header": "X-Hub-Signature-256",
        "prefix": "sha256=",
        "event_id_header": "X-GitHub-Delivery",
    },
    "shopify": {
        "header": "X-Shopify-Hmac-Sha256",
        "encoding": "base64",
        "event_id_header": "X-Shopify-Webhook-Id",
    },
    "slack": {
        "header": "X-Slack-Signature",
        "prefix": "v0=",
        "content": "v0:{timestamp}:{body}",
        "timestamp_header": "X-Slack-Request-Timestamp",
    },
    "standard": {
        "header": "webhook-signature",
        "encoding": "base64",
        "prefix": "v1,",
        "separator": " ",
        "content": "{id}.{timestamp}.{body}",
        "timestamp_header": "webhook-timestamp",
        "event_id_header": "webhook-id",
        "secret_base64_prefix": "whsec_",
    },
    "stripe": {
        "header": "Stripe-Signature",
        "prefix": "v1=",
        "separator": ",",
        "content": "{timestamp}.{body}",
        "timestamp_prefix": "t=",
    },
}


class UnusableError(ValueError):
    """Why a signature cannot be verified as it is asked for."""


def rule_of(given: Any) -> dict[str, Any]:
    """The complete rule; `UnusableError` says what to correct."""
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise UnusableError('write {"scheme": "github", "secret": "name_of_the_secret"}')
    scheme = given.get("scheme", "hmac")
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise UnusableError(f"scheme is one of {', '.join(SCHEMES)}")
    unknown = sorted(set(given) - set(_RULE) - {"scheme"})
    if unknown:
        raise UnusableError(f"unknown: {', '.join(unknown)}; there are {', '.join(_RULE)}")
    rule = {**_RULE, **SCHEMES[scheme], **{key: value for key, value in given.items() if key != "scheme"}}
    if rule["timestamp_header"] and "content" not in given and "{timestamp}" not in rule["content"]:
        # A time that is not signed could be written by anybody.
        rule["content"] = "{timestamp}." + rule["content"]
    _check(rule)
    return rule


def _check(rule: dict[str, Any]) -> None:
    texts = ("secret", "header", "algorithm", "encoding", "prefix", "content")
    optional = (
        "separator",
        "timestamp_header",
        "timestamp_prefix",
        "event_id_header",
        "secret_base64_prefix",
    )
    for name in texts:
        if not isinstance(rule[name], str):
            raise UnusableError(f"{name} must be text")
    for name in optional:
        if rule[name] is not None and not isinstance(rule[name], str):
            raise UnusableError(f"{name} must be text or None")
    if not _SECRET.match(rule["secret"]):
        raise UnusableError("secret is the name of a secret: letters, digits, _ and -")
    for name in ("header", "timestamp_header", "event_id_header"):
        if rule[name] is not None and not _HEADER.match(rule[name]):
            raise UnusableError(f"{name} is no name of a header")
    if rule["algorithm"] not in ("sha256", "sha512"):
        raise UnusableError("algorithm is sha256 or sha512")
    if rule["encoding"] not in ("hex", "base64"):
        raise UnusableError("encoding is hex or base64")
    if rule["separator"] is not None and len(rule["separator"]) != 1:
        raise UnusableError("separator is one character")
    tolerance = rule["tolerance_seconds"]
    if isinstance(tolerance, bool) or not isinstance(tolerance, int) or not 1 <= tolerance <= DAY:
        raise UnusableError(f"tolerance_seconds is a number from 1 to {DAY}")
    has_time = bool(rule["timestamp_header"] or rule["timestamp_prefix"])
    if rule["content"].count("{body}") != 1:
        raise UnusableError("content holds {body} once")
    if has_time != ("{timestamp}" in rule["content"]):
        raise UnusableError(
            "content holds {timestamp} exactly when there is a timestamp_header or timestamp_prefix"
        )
    if "{id}" in rule["content"] and not rule["event_id_header"]:
        raise UnusableError("content holds {id}, so event_id_header must say where it is")
