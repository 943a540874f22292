"""What `warm.python()` runs: hands a command and its open files over, and ends as it does.

Its start is all that a command costs, so it imports little.
"""

# ruff: noqa: PTH109

import json
import os
import signal
import socket
import sys
from types import FrameType

address, interpreter, *arguments = sys.argv[1:]
if arguments[:1] != ["-m"]:
    os.execv(interpreter, [interpreter, *arguments])
with socket.socket(socket.AF_UNIX) as link:
    link.connect(address)
    request = json.dumps([arguments[1:], os.getcwd(), dict(os.environ), os.getppid()]).encode()
    socket.send_fds(link, [len(request).to_bytes(8, "big")], [0, 1, 2])
    link.sendall(request)
    process = int.from_bytes(link.recv(8), "big")

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(process, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    code = link.recv(1)
if not code:  # it was killed
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(code[0])
