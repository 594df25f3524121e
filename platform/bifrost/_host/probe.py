"""Says which pieces of the isolation can be had here, as JSON: `python3 -m bifrost._host.probe`.

The worker asks before it takes work, and `bifrost doctor` shows the answer. The options are the template's.
"""

from __future__ import annotations

import argparse
import json

from . import options
from .isolation import find_pieces, report
from .tree import Tree


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bifrost._host.probe")
    options.add(parser)
    wanted = options.wanted(parser, parser.parse_args(), "")
    print(json.dumps(report(find_pieces(wanted, Tree(wanted=wanted.mode != "off").kind))))


if __name__ == "__main__":
    main()
