"""The sites of the device list, as choices of a form field."""

import csv
import io
from collections import Counter

from bifrost import data_provider, files

DEVICES = "inventory/devices.csv"
# Names that only a handful of devices bear are typing errors, not sites.
SMALLEST_SITE = 50


@data_provider(description="Sites with their number of devices", category="Inventory", cache_ttl_seconds=300)
async def list_sites() -> list[dict[str, str]]:
    devices = csv.DictReader(io.StringIO(await files.read(DEVICES)))
    counts = Counter(device["site"] for device in devices)
    return [
        {"label": f"{site} ({count} devices)", "value": site}
        for site, count in sorted(counts.items())
        if count >= SMALLEST_SITE
    ]
