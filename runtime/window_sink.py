"""A window on the screen, through SDL (pygame)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.errors import SdpsError, SinkError
from sdps.core.frame import Frame, Image
from sdps.runtime.compare import MODES, compose
from sdps.runtime.picture_sink import encode_picture
from sdps.runtime.stream import StreamInfo

HELP = "q quit   space pause   c compare   mouse moves the wipe   s snapshot   h help"
HELP_SECONDS = 6.0


def has_display() -> bool:
    """Whether a window could be seen: on Linux an X or Wayland session, elsewhere always."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class WindowSink:
    """Shows frames. The keys stand in HELP, which is shown for the first seconds and on h.

    Files are shown at their own speed if the model keeps up; a camera's newest frame at once.

    Raises:
        MissingDependency: pygame is not installed.
        SinkError: no window can be opened.
    """

    def __init__(self, info: StreamInfo, compare: str = "off", title: str = "sdps") -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        self.pygame: Any = need("pygame")
        self.info, self.compare, self.place = info, compare, "window"
        self.position, self.paused, self.helped = 0.5, False, False
        self.stopped = False
        self.opened = self.begin = time.monotonic()
        self.shown: tuple[Frame, Frame] | None = None
        self.left, self.wide = 0, info.width  # where the picture lies in the window
        width = info.width * (2 if compare == "side" else 1)
        try:
            self.pygame.display.init()
            self.pygame.font.init()
            desktop = self.pygame.display.get_desktop_sizes()[0]
            fit = min(1.0, 0.9 * desktop[0] / width, 0.85 * desktop[1] / info.height)
            size = (max(160, round(width * fit)), max(120, round(info.height * fit)))
            self.screen = self.pygame.display.set_mode(size, self.pygame.RESIZABLE)
            self.pygame.display.set_caption(title)
            self.font = self.pygame.font.Font(None, 22)
        except self.pygame.error as error:
            raise SinkError(
                f"No window can be opened: {error}.", "Give --output FILE, or --output none."
            ) from None

    def write(self, rainy: Frame, clean: Frame) -> bool:
        if self.paused and self.info.live:  # the picture stands still, the other outputs do not
            return self.idle()
        self.shown = (rainy, clean)
        if not self.info.live and self.info.kind == "video":
            due = self.begin + clean.time
            if due < time.monotonic() - 0.25:  # the model is slower than the film: no catching up
                self.begin = time.monotonic() - clean.time
            while time.monotonic() < due:
                if not self._events():
                    return False
                time.sleep(0.004)
        while True:
            self._draw()
            if not self._events():
                return False
            if not self.paused or self.info.live:
                return True
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends a wait for the next frame's moment, or for the end of a pause; from any thread."""
        self.stopped = True

    def idle(self) -> bool:
        """Keeps the window alive, and the keys obeyed, while a slow model works on a frame."""
        self._draw()
        return self._events()

    def _image(self) -> Image:
        assert self.shown is not None
        return compose(self.compare, self.shown[0].image, self.shown[1].image, self.position)

    def _draw(self) -> None:
        if self.shown is None:
            return
        pygame, image = self.pygame, self._image()
        height, width = image.shape[:2]
        surface = pygame.image.frombuffer(image.tobytes(), (width, height), "RGB")
        wide, high = self.screen.get_size()
        fit = min(wide / width, high / height)
        size = (max(1, round(width * fit)), max(1, round(height * fit)))
        self.left, self.wide = (wide - size[0]) // 2, size[0]
        self.screen.fill((0, 0, 0))
        self.screen.blit(pygame.transform.smoothscale(surface, size), (self.left, (high - size[1]) // 2))
        if time.monotonic() - self.opened < HELP_SECONDS or self.paused or self.helped:
            self.screen.blit(self.font.render(HELP, True, (255, 255, 255), (0, 0, 0)), (8, high - 26))
        pygame.display.flip()

    def _events(self) -> bool:
        pygame = self.pygame
        if self.stopped:
            return False
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                return False
            if event.type == pygame.MOUSEMOTION and self.compare == "wipe" and self.shown:
                self.position = (event.pos[0] - self.left) / max(1, self.wide)
            elif event.type == pygame.KEYDOWN:
                if event.key in (pygame.K_q, pygame.K_ESCAPE):
                    return False
                if event.key == pygame.K_SPACE:
                    self.paused = not self.paused
                elif event.key == pygame.K_h:
                    self.helped = not self.helped
                elif event.key == pygame.K_c:
                    self.compare = MODES[(MODES.index(self.compare) + 1) % len(MODES)]
                elif event.key == pygame.K_s and self.shown:
                    self._snapshot()
        return True

    def _snapshot(self) -> None:
        stem = Path(time.strftime("sdps-%Y%m%d-%H%M%S"))
        names = (stem.with_name(f"{stem}{more}.png") for more in ("", *(f"-{i}" for i in range(2, 100))))
        path = next((name for name in names if not name.exists()), stem.with_suffix(".png"))
        try:
            write_bytes(path, encode_picture(self._image(), ".png"))
        except SdpsError as error:  # the film goes on
            sys.stderr.write(f"no snapshot: {error.message}\n")
            return
        sys.stderr.write(f"snapshot: {path}\n")

    def close(self, complete: bool = True) -> None:
        """Closes the window; a single picture stays until a key closes it."""
        if (
            complete
            and self.info.kind == "pictures"
            and self.shown
            and os.environ.get("SDL_VIDEODRIVER") != "dummy"
        ):
            while self._events():
                self._draw()
                time.sleep(0.03)
        self.pygame.display.quit()

    def discard(self) -> None:
        self.pygame.display.quit()
