"""Compares invoices with payments, and refuses to close a month that does not add up."""

import logging
from decimal import Decimal, InvalidOperation
from typing import Any

from bifrost import UserError, param, workflow

logger = logging.getLogger(__name__)

SAMPLE_INVOICES = [
    {"number": "2026-1041", "customer": "Harbour Dental", "amount": "1240.00"},
    {"number": "2026-1042", "customer": "Northgate Legal", "amount": "3899.50"},
    {"number": "2026-1043", "customer": "Mill Lane Surgery", "amount": "760.25"},
]
SAMPLE_PAYMENTS = [
    {"invoice": "2026-1041", "amount": "1240.00"},
    {"invoice": "2026-1042", "amount": "3889.50"},
]


@workflow(
    description="Match payments to invoices; fails while they differ",
    category="Billing",
    tags=["finance"],
    execution_mode="sync",
    timeout_seconds=60,
)
@param("invoices", label="Invoices", help_text='[{"number", "customer", "amount"}]; empty for a sample')
@param("payments", label="Payments", help_text='[{"invoice", "amount"}]; empty for a sample')
@param("tolerance", label="Tolerance", help_text="Differences up to this amount are accepted")
def reconcile_invoices(
    invoices: list[dict[str, Any]] | None = None,
    payments: list[dict[str, Any]] | None = None,
    tolerance: str = "0.00",
) -> dict[str, Any]:
    billed = SAMPLE_INVOICES if invoices is None else invoices
    received = SAMPLE_PAYMENTS if payments is None else payments
    allowed = amount(tolerance, "the tolerance")

    paid: dict[str, Decimal] = {}
    for payment in received:
        number = str(payment["invoice"])
        paid[number] = paid.get(number, Decimal(0)) + amount(payment["amount"], f"the payment of {number}")

    open_items = []
    for invoice in billed:
        due = amount(invoice["amount"], f"invoice {invoice['number']}")
        due -= paid.pop(str(invoice["number"]), Decimal(0))
        if abs(due) > allowed:
            open_items.append(f"{invoice['number']} ({invoice['customer']}): {due:+.2f}")
    open_items += [
        f"{number}: paid {value:.2f}, but there is no such invoice" for number, value in paid.items()
    ]
    logger.info("compared %d invoices with %d payments", len(billed), len(received))
    if open_items:
        raise UserError(
            f"The month cannot be closed: {len(open_items)} of {len(billed)} invoices are not paid in full. "
            f"{'; '.join(open_items)}. Correct the amounts, or accept small differences with a tolerance."
        )
    return {"reconciled": len(billed), "total": sum((amount(i["amount"], "") for i in billed), Decimal(0))}


def amount(text: Any, what: str) -> Decimal:
    try:
        return Decimal(str(text))
    except InvalidOperation:
        raise UserError(f"{what[:1].upper()}{what[1:]} is not an amount: {text!r}") from None
