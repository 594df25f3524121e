"""Checks the device list of all sites and reports what needs attention."""

import csv
import html
import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from datetime import date

from bifrost import UserError, files, param, workflow

logger = logging.getLogger(__name__)

DEVICES = "inventory/devices.csv"
SITES = {"Berlin HQ", "Bristol", "Ghent", "Leeds", "Lyon", "Malmo", "Porto", "Tallinn", "Turin", "Utrecht"}
MAC = re.compile(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}")
PROGRESS_EVERY = 500


@workflow(
    description="Validate the device list and report faults, stale devices and counts by kind",
    category="Inventory",
    tags=["inventory", "report"],
    execution_mode="sync",
    timeout_seconds=120,
)
@param("site", label="Site", data_provider="list_sites", help_text="Only this site; empty for all")
@param("stale_after_days", label="Stale after (days)", validation={"min": 1, "max": 365})
async def device_inventory(site: str = "", stale_after_days: int = 30) -> str:
    if site and site not in SITES:
        raise UserError(f"There is no site {site!r}. Choose one of: {', '.join(sorted(SITES))}.")
    devices = list(csv.DictReader(io.StringIO(await files.read(DEVICES))))
    # The list says nothing about days after its newest entry, so that is the day it is measured from.
    today = max(date.fromisoformat(device["last_seen"]) for device in devices)

    serials: set[str] = set()
    kinds: Counter[str] = Counter()
    faults: list[tuple[dict[str, str], str]] = []
    stale: list[tuple[dict[str, str], int]] = []
    for number, device in enumerate(devices, 1):
        if number % PROGRESS_EVERY == 0:
            logger.info("checked %d of %d devices", number, len(devices), extra={"faults": len(faults)})
        found = faults_of(device, serials, today)
        serials.add(device["serial"])
        if site and device["site"] != site:
            continue
        kinds[device["kind"]] += 1
        faults += [(device, fault) for fault in found]
        unseen = (today - date.fromisoformat(device["last_seen"])).days
        if unseen > stale_after_days:
            stale.append((device, unseen))

    if faults:
        logger.warning("%d faults in the device list", len(faults))
    stale.sort(key=lambda entry: -entry[1])
    return report(site or "all sites", kinds, faults, stale)


def faults_of(device: dict[str, str], serials: set[str], today: date) -> list[str]:
    """What is wrong with a row, given the serials of the rows before it."""
    found = []
    if not MAC.fullmatch(device["mac"]):
        found.append(f"bad MAC address {device['mac']}")
    if device["serial"] in serials:
        found.append(f"serial {device['serial']} is used twice")
    if date.fromisoformat(device["warranty_until"]) < today:
        found.append(f"out of warranty since {device['warranty_until']}")
    if device["site"] not in SITES:
        found.append(f"unknown site {device['site']}")
    return found


def report(
    where: str,
    kinds: Counter[str],
    faults: list[tuple[dict[str, str], str]],
    stale: list[tuple[dict[str, str], int]],
) -> str:
    counts = table(["Kind", "Devices"], kinds.most_common())
    wrong = table(["Device", "Site", "Fault"], [(d["hostname"], d["site"], fault) for d, fault in faults])
    unseen = table(["Device", "Site", "Days unseen"], [(d["hostname"], d["site"], days) for d, days in stale])
    return (
        f"<h1>Device inventory: {html.escape(where)}</h1>"
        f"<p>{kinds.total()} devices, {len(faults)} faults, {len(stale)} not seen lately.</p>"
        f"<h2>By kind</h2>{counts}<h2>Faults</h2>{wrong}<h2>Not seen lately</h2>{unseen}"
    )


def table(head: list[str], rows: Sequence[tuple[object, ...]]) -> str:
    if not rows:
        return "<p>None.</p>"
    header = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
