"""What this Python can do at best: `fork SECONDS` and `echo`, run by the bench with the SDK on its path."""

import gc
import importlib
import json
import os
import socket
import struct
import sys
import time


def warm() -> None:
    """As warm as the template that runs are forked from."""
    template = importlib.import_module("bifrost._host.template")
    for name in (*template.COMMON, *template.SDK):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def fork(seconds: float) -> None:
    """Fork and wait, one after the other; prints the milliseconds each took."""
    times = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        times.append((time.monotonic() - began) * 1000)
    print(json.dumps(times))


def echo() -> None:
    """Answer length-prefixed JSON on the socket that is standard input, until it closes."""
    connection = socket.socket(fileno=0)
    pending = bytearray()
    while received := connection.recv(65536):
        pending += received
        while len(pending) >= 4 and len(pending) >= (end := 4 + struct.unpack_from("!I", pending)[0]):
            told = json.loads(pending[4:end])
            del pending[:end]
            answer = json.dumps({"id": told["id"], "ok": True}).encode()
            connection.sendall(struct.pack("!I", len(answer)) + answer)


warm()
if sys.argv[1] == "fork":
    fork(float(sys.argv[2]))
else:
    echo()
