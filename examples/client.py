"""A video of a running server, with its events, its report and its file.

ringlight serve --model-type diffusion --model-path CHECKPOINT &
python examples/client.py [URL]
"""

from __future__ import annotations

import sys
from pathlib import Path

from ringlight import Client
from ringlight.client import Preview, Progress, Video


def main(url: str = "http://127.0.0.1:8898") -> None:
    with Client(url) as client:
        video = client.create("a whale rises above the clouds", seed=2)
        for event in client.events(video.id):
            match event:
                case Video():
                    print(event.status)
                case Progress():
                    print(f"{event.progress} %", event.stage)
                case Preview():
                    print(f"a preview after step {event.step}, {len(event.image)} bytes")
        print(client.report(video.id).table())
        client.download(video.id, Path("whale.mp4"))


if __name__ == "__main__":
    main(*sys.argv[1:])
