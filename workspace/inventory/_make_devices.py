"""Writes devices.csv: 5,000 devices, always the same ones, about 1.6 % of them wrong in some way.

python3 workspace/inventory/_make_devices.py
"""

import csv
import random
from datetime import date, timedelta
from pathlib import Path

COUNT = 5000
TODAY = date(2026, 11, 1)
SITES = ["Berlin HQ", "Bristol", "Ghent", "Leeds", "Lyon", "Malmo", "Porto", "Tallinn", "Turin", "Utrecht"]
MODELS = {
    "Cisco": [("C9200L-24P", "switch"), ("C9300-48U", "switch"), ("ISR1121", "router")],
    "Dell": [("Latitude 5450", "laptop"), ("OptiPlex 7020", "desktop"), ("PowerEdge R660", "server")],
    "Fortinet": [("FG-60F", "firewall"), ("FG-100F", "firewall")],
    "HP": [("EliteBook 840 G11", "laptop"), ("LaserJet M507", "printer")],
    "Lenovo": [("ThinkPad T14 G5", "laptop"), ("ThinkCentre M70q", "desktop")],
    "Ubiquiti": [("U6-Pro", "access point"), ("USW-24-PoE", "switch")],
}
PREFIXES = {
    "Cisco": "00:1B:54",
    "Dell": "D4:BE:D9",
    "Fortinet": "00:09:0F",
    "HP": "3C:D9:2B",
    "Lenovo": "54:EE:75",
    "Ubiquiti": "74:AC:B9",
}
COLUMNS = [
    "serial",
    "hostname",
    "vendor",
    "model",
    "kind",
    "site",
    "mac",
    "ip",
    "warranty_until",
    "last_seen",
]


def main() -> None:
    chance = random.Random(5000)
    rows: list[dict[str, str]] = []
    for number in range(1, COUNT + 1):
        vendor = chance.choice(sorted(MODELS))
        model, kind = chance.choice(MODELS[vendor])
        site = chance.choice(SITES)
        tail = f"{number:06X}"
        row = {
            "serial": f"{vendor[:2].upper()}{chance.randrange(16**6):06X}{number:04d}",
            "hostname": f"{site[:3].lower()}-{kind.replace(' ', '')[:4]}-{number:04d}",
            "vendor": vendor,
            "model": model,
            "kind": kind,
            "site": site,
            "mac": f"{PREFIXES[vendor]}:{tail[:2]}:{tail[2:4]}:{tail[4:]}",
            "ip": f"10.{20 + SITES.index(site)}.{number // 250}.{number % 250 + 2}",
            "warranty_until": (TODAY + timedelta(days=chance.randrange(60, 1400))).isoformat(),
            "last_seen": (TODAY - timedelta(days=int(chance.expovariate(1 / 9)))).isoformat(),
        }
        fault = chance.random()
        if fault < 0.004:
            row["mac"] = row["mac"].replace(":", "")[:11]
        elif fault < 0.008 and rows:
            row["serial"] = chance.choice(rows)["serial"]
        elif fault < 0.012:
            row["warranty_until"] = (TODAY - timedelta(days=chance.randrange(30, 900))).isoformat()
        elif fault < 0.016:
            row["site"] = chance.choice(["Unknown", "Brlin HQ", "Leeds (old)"])
        rows.append(row)
    with Path(__file__).with_name("devices.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
