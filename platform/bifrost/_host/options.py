"""The options that say how runs are enclosed: of the template, and of the probe that only looks."""

from __future__ import annotations

import argparse
import os

from .cgroups import Limits
from .isolation import MODES, Owner, Wanted


def add(parser: argparse.ArgumentParser) -> None:
    """Let `parser` read them."""
    parser.add_argument("--isolation", choices=MODES, default="best-effort")
    parser.add_argument("--run-as", type=owner, metavar="UID:GID", help="who the runs are; needs root")
    parser.add_argument("--run-as-count", type=int, default=1, help="that many users, counted from it")
    parser.add_argument("--network", type=network, default="open", help="`open`, `none`, or TCP ports")
    parser.add_argument("--folder", help="where each process has its private directory")
    parser.add_argument("--cgroup", metavar="DIR", help="where each process gets a control group")
    parser.add_argument("--cgroup-memory", type=int, default=1 << 30, help="bytes that one may hold")
    parser.add_argument("--cgroup-processes", type=int, default=512, help="processes that may be in one")
    parser.add_argument("--readable", action="append", default=[], metavar="PATH", help="more to read")
    parser.add_argument("--writable", action="append", default=[], metavar="PATH", help="more to write")


def wanted(parser: argparse.ArgumentParser, options: argparse.Namespace, workspace: str) -> Wanted:
    """What they ask for; ends the program where that makes no sense."""
    if options.run_as is not None and os.geteuid() != 0:
        parser.error("--run-as needs root: only root can start runs as somebody else")
    return Wanted(
        mode=options.isolation,
        network=options.network,
        owner=options.run_as,
        owners=max(1, options.run_as_count),
        folder=options.folder,
        workspace=workspace,
        readable=tuple(options.readable),
        writable=tuple(options.writable),
        cgroup=Limits(options.cgroup, options.cgroup_memory, options.cgroup_processes)
        if options.cgroup
        else None,
    )


def owner(text: str) -> Owner:
    """`UID:GID`, neither of them root's."""
    uid, _, gid = text.partition(":")
    found = int(uid), int(gid)
    if min(found) < 1:
        raise ValueError(text)
    return found


def network(text: str) -> str:
    """`open`, `none`, or ports separated by commas."""
    if text in ("open", "none"):
        return text
    ports = [int(port) for port in text.split(",")]
    if not all(0 < port < 65536 for port in ports):
        raise ValueError(text)
    return ",".join(map(str, ports))
