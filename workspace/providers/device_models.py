"""The models of a vendor, as choices of a form field."""

import csv
import io

from bifrost import data_provider, files, param

DEVICES = "inventory/devices.csv"


@data_provider(description="Device models, of one vendor or all", category="Inventory", cache_ttl_seconds=600)
@param("vendor", label="Vendor", help_text="Cisco, Dell, …; empty for all")
async def device_models(vendor: str = "") -> list[str]:
    devices = csv.DictReader(io.StringIO(await files.read(DEVICES)))
    wanted = vendor.casefold()
    return sorted(
        {device["model"] for device in devices if not wanted or device["vendor"].casefold() == wanted}
    )
