"""A real RTSP server (GStreamer's) for the tests; run by the system's Python, which has its bindings.

    python3 rtsp_server.py PORT [--fps 25] [--size 160x120] [--password PW] [--still] [--record FILE]

Serves rtsp://127.0.0.1:PORT/cam and prints "ready". Each frame carries a number, in black and
white cells, that goes on over restarts because it is the machine's monotonic time in frames.
With --record, it takes a stream that is pushed to it instead, and writes it to FILE.
"""

import argparse
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

BITS = 24


def numbered(width, height, number, flicker):
    """An I420 picture with `number` in BITS cells across the upper half."""
    cell = width // BITS
    row = b"".join((b"\xe6" if number >> bit & 1 else b"\x1e") * cell for bit in range(BITS))
    row += b"\x80" * (width - len(row))
    below = bytes([60 + number % 100 if flicker else 100]) * width
    return row * (height // 2) + below * (height - height // 2) + b"\x80" * (width * height // 2)


class Camera(GstRtspServer.RTSPMediaFactory):
    def __init__(self, width, height, fps, still):
        super().__init__()
        self.width, self.height, self.fps, self.still = width, height, fps, still
        # Not shared: a client that is gone must not leave a half-made pipeline to the next one.
        self.set_shared(False)
        self.set_launch(
            "( appsrc name=src is-live=true format=time do-timestamp=true"
            f" caps=video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"
            f" ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} bitrate=800"
            " ! rtph264pay name=pay0 pt=96 config-interval=1 )"
        )

    def feed(self, media):
        source = media.get_element().get_by_name_recurse_up("src")
        alive, sent = [True], [-1]
        media.connect("unprepared", lambda *_: alive.__setitem__(0, False))

        def push():
            if not alive[0]:
                return False
            number = 0 if self.still else int(time.monotonic() * self.fps) % (1 << BITS)
            if number == sent[0] and not self.still:  # one timer late, the next on time
                return True
            sent[0] = number
            data = numbered(self.width, self.height, number, not self.still)
            source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
            return True

        GLib.timeout_add(round(1000 / self.fps), push)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--size", default="240x96")
    parser.add_argument("--password")
    parser.add_argument("--still", action="store_true")
    parser.add_argument("--record")
    parser.add_argument("--address", default="127.0.0.1")
    given = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address(given.address)
    server.set_service(given.port)
    if given.record:
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        factory.set_launch(
            "( rtph264depay name=depay0 ! h264parse ! mpegtsmux"
            f' ! filesink sync=false buffer-mode=unbuffered location="{given.record}" )'
        )
    else:
        width, height = map(int, given.size.split("x"))
        factory = Camera(width, height, given.fps, given.still)
        factory.connect("media-configure", lambda f, media: f.feed(media))
    if given.password:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic("user", given.password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/cam", factory)
    if server.attach(None) == 0:
        sys.exit("the port is busy")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
