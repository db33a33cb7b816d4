"""WebSockets of the JSON gateway: what setpoint and etcd say to the same messages.

A client of the standard library's sockets (RFC 6455): as far as a test needs one. Streams alone: etcd leaves
calls of one answer without it until the connection closes, setpoint answers them.
"""

import base64
import json
import os
import socket
import struct
from urllib.parse import urlsplit

# Path, subprotocol, messages: each is sent after the answer to the one before, or after half a second without.
TALKS = [
    ("/v3/watch", None, [{"create_request": {"key": "d3M="}}, {"create_request": {"key": "d3M=", "watch_id": "7"}},
                         {"progress_request": {}}, {"cancel_request": {"watch_id": "7"}}]),
    ("/v3/watch", None, [{"create_request": {"key": "d3M=", "start_revision": "2"}}]),
    ("/v3/lease/keepalive", None, [{"ID": "7777"}, {"ID": "7778"}]),
    ("/v3/nope", None, []),
    ("/version", None, []),
]
CLOSE = 8


class Socket:
    """One side of a WebSocket."""

    def __init__(self, url, path, protocol):
        at = urlsplit(url)
        self.socket = socket.create_connection((at.hostname, at.port), 5)
        self.socket.settimeout(0.5)
        offer = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {path} HTTP/1.1\r\nHost: etcd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{offer}\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        self.status = int(lines[0].split()[1])
        self.protocol = headers.get("sec-websocket-protocol")

    def read(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def say(self, text):
        payload, mask = text.encode(), os.urandom(4)
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack("!BH", 0x80 | 126, len(payload))
        self.socket.sendall(bytes([0x81]) + length + mask +
                            bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))

    def hear(self):
        """The next text; None at the end."""
        while True:
            kind, length = self.read(2)
            if length == 126:
                length, = struct.unpack("!H", self.read(2))
            elif length == 127:
                length, = struct.unpack("!Q", self.read(8))
            payload = self.read(length)
            if kind & 0x0f == CLOSE:
                return None
            if kind & 0x0f == 1:
                return payload.decode()


def talk(url, path, protocol, messages):
    """What was answered, until nothing more is said. A close frame is as good as a closed connection: etcd sends none."""
    heard = []
    try:
        client = Socket(url, path, protocol)
        heard.append((client.status, client.protocol))
        if client.status != 101:
            return heard
        for message in messages or [None]:
            if message is not None:
                client.say(message if isinstance(message, str) else json.dumps(message))
            try:
                while (text := client.hear()) is not None:
                    heard.append(json.loads(text))
                    break
                else:
                    return heard + ["the end"]
            except TimeoutError:
                pass
        while (text := client.hear()) is not None:
            heard.append(json.loads(text))
        return heard + ["the end"]
    except TimeoutError:
        return heard
    except (EOFError, ConnectionError):
        return heard + ["the end"]


def compare(ours, theirs, masked):
    """How many talks go differently."""
    differences = 0
    for path, protocol, messages in TALKS:
        answers = [masked(talk(url, path, protocol, messages)) for url in (ours, theirs)]
        if answers[0] != answers[1]:
            differences += 1
            print(f"WebSocket {path} {messages}\n  setpoint {answers[0]}\n  etcd     {answers[1]}")
    return differences, len(TALKS)
