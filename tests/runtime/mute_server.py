"""An RTSP server that a stream is pushed to, and that falls mute: it reads and answers nothing more.

    python mute_server.py [METHOD]

Prints its port, and each method that it is asked. Is mute from METHOD on, and while lines on standard input
say so ("mute", "hear").
"""

import socket
import sys
import threading

HEARS = threading.Event()


def serve(line: socket.socket, mute_from: str) -> None:
    stream = line.makefile("rb")
    while first := stream.read(1):
        HEARS.wait()
        if first == b"$":
            stream.read(int.from_bytes(stream.read(3)[1:], "big"))
            continue
        method = (first + stream.readline()).decode().split()[0]
        headers = dict(h.split(": ", 1) for h in iter(lambda: stream.readline().decode().strip(), ""))
        stream.read(int(headers.get("Content-Length", 0)))
        print(method, flush=True)
        if method == mute_from:
            HEARS.clear()
            HEARS.wait()
        answer = ["RTSP/1.0 200 OK", f"CSeq: {headers['CSeq']}", "Session: 1"]
        answer += [f"Transport: {headers['Transport']}"] if method == "SETUP" else []
        line.sendall(("\r\n".join(answer) + "\r\n\r\n").encode())


def accept(listener: socket.socket, mute_from: str) -> None:
    while True:
        line = listener.accept()[0]
        threading.Thread(target=serve, args=(line, mute_from), daemon=True).start()


if __name__ == "__main__":
    HEARS.set()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read is felt soon
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=accept, args=(listener, (*sys.argv, "")[1]), daemon=True).start()
        for order in sys.stdin:
            HEARS.set() if order.strip() == "hear" else HEARS.clear()
