"""Decoding apart: a process of its own, bounded in memory and time, for formats whose header binds nobody.

The pixels of an AVIF or HEIC picture are a video frame with a size of its own, whatever the file around it says: a
kilobyte that claims 64x64 pixels can take gigabytes. `python -m ringlight.server.safety.apart` decodes one from stdin.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import msgspec

from ringlight.core.errors import InvalidRequest
from ringlight.core.picture import fit_picture, open_picture
from ringlight.core.request import RequestLimits

FORMATS = ("AVIF", "HEIF")
MAX_DATA_BYTES = 512 * 2**20  # of the whole process: a picture of 30 megapixels
MAX_SECONDS = 60
SIDE = 64  # of what is made of it: whether that can be depends on the kind of picture and not on its pixels


def check_apart(encoded: bytes, limits: RequestLimits, max_data_bytes: int = MAX_DATA_BYTES) -> None:
    """Raise InvalidRequest unless the picture can be decoded whole and fitted to a size, within those bounds."""
    command = [sys.executable, "-P", "-m", __name__, msgspec.json.encode(limits).decode(), str(max_data_bytes)]
    try:
        done = subprocess.run(command, input=encoded, capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0:
        return
    if done is not None and done.returncode == 1 and done.stdout:
        raise InvalidRequest.of("image", done.stdout.decode())
    raise InvalidRequest.of(
        "image",
        f"cannot be decoded with {max_data_bytes // 2**20} MiB in {MAX_SECONDS} s; send a smaller one, or JPEG or PNG",
    )


def main() -> None:
    """Decode the picture on stdin. Exit status 1, and why on stdout, for one that is damaged or of a wrong kind."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # decoders take a thread, and memory, for each core
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        limits = msgspec.json.decode(sys.argv[1], type=RequestLimits)
        picture = open_picture(sys.stdin.buffer.read(), limits)
        picture.load()
        fit_picture(picture, SIDE, SIDE)
    except InvalidRequest as error:
        print(error.problems[0].message, end="")
        sys.exit(1)
    except Exception as error:  # decoders raise nearly anything for bytes that are damaged
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            sys.exit(2)
        print(f"is damaged and cannot be decoded: {' '.join(str(error).split())}", end="")
        sys.exit(1)


if __name__ == "__main__":
    main()
