"""The same server from OpenAI's SDK: what that does not know goes into `extra_body`.

pip install openai
python examples/openai_sdk.py [URL]    # http://HOST:PORT, with or without the /v1 behind it
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(url: str = "http://127.0.0.1:8898") -> None:
    client = OpenAI(base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1", api_key="any")
    video = client.videos.create_and_poll(prompt="a whale rises above the clouds", extra_body={"seed": 2})
    print(video.id, video.status, video.model_extra and video.model_extra.get("inference_time_s"))
    client.videos.download_content(video.id).write_to_file("whale.mp4")


if __name__ == "__main__":
    main(*sys.argv[1:])
