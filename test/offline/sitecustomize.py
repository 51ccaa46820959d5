"""Python imports this at its start. Any use of the network then ends the process with exit code 99."""

import os
import sys

FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def forbid(event: str, arguments: tuple) -> None:
    if event in FORBIDDEN:
        os.write(2, f"the network was asked for: {event} {arguments}\n".encode())
        os._exit(99)


sys.addaudithook(forbid)
