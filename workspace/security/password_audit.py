"""Finds accounts whose password is in a dictionary: pure CPU work."""

import hashlib
import hmac
import logging
from typing import Any

from bifrost import UserError, param, workflow

logger = logging.getLogger(__name__)

COMMON = [
    "password",
    "123456",
    "welcome1",
    "qwerty",
    "letmein",
    "Summer2026!",
    "admin",
    "changeme",
    "acme2026",
]


@workflow(
    description="Check password hashes (PBKDF2-SHA256) against a list of common passwords",
    category="Security",
    tags=["audit", "cpu"],
    timeout_seconds=900,
)
@param(
    "accounts",
    label="Accounts",
    help_text='[{"user", "salt", "hash"}], both in hexadecimal; empty for a sample',
)
@param("work_factor", label="Iterations", validation={"min": 1, "max": 1_000_000})
@param("words", label="More passwords to try")
def password_audit(
    accounts: list[dict[str, str]] | None = None, work_factor: int = 20_000, words: list[str] | None = None
) -> dict[str, Any]:
    if work_factor < 1:
        raise UserError("The number of iterations must be at least 1.")
    audited = accounts or sample(work_factor)
    dictionary = list(dict.fromkeys([*COMMON, *(words or [])]))
    weak = []
    for account in audited:
        # The underscore keeps the password out of the variables an administrator sees.
        _word = crack(account, dictionary, work_factor)
        if _word is not None:
            weak.append(account["user"])
            logger.warning(
                "%s has a password from the dictionary", account["user"], extra={"length": len(_word)}
            )
    logger.info("audited %d accounts against %d passwords", len(audited), len(dictionary))
    return {"audited": len(audited), "weak": weak, "hashes_computed_at_most": len(audited) * len(dictionary)}


def crack(account: dict[str, str], dictionary: list[str], work_factor: int) -> str | None:
    try:
        salt, wanted = bytes.fromhex(account["salt"]), bytes.fromhex(account["hash"])
    except (KeyError, ValueError) as problem:
        raise UserError(
            f"Account {account.get('user', '?')}: salt and hash must be hexadecimal."
        ) from problem
    for word in dictionary:
        if hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", word.encode(), salt, work_factor), wanted):
            return word
    return None


def sample(work_factor: int) -> list[dict[str, str]]:
    """Ten accounts, three of them weak."""
    chosen = {0: "welcome1", 4: "Summer2026!", 7: "changeme"}
    accounts = []
    for number in range(10):
        salt = hashlib.sha256(b"salt %d" % number).digest()[:16]
        word = chosen.get(number, f"a long and private phrase {number}")
        digest = hashlib.pbkdf2_hmac("sha256", word.encode(), salt, work_factor)
        accounts.append({"user": f"user{number:02d}", "salt": salt.hex(), "hash": digest.hex()})
    return accounts
