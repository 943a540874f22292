"""CPU time and peak memory of reading one frame per second from a long video, and of its header.

  python benchmarks/decode.py [--minutes 10] [--against CHECKOUT]

A video of 1280 × 720 at 25 frames per second (H.264 with B-frames) is made, as MP4 and, without encoding it
again, as Matroska. Each is read in a process of its own; with `--against` also by the code of another
checkout, in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

SIZE = (720, 1280)
# In the process: CPU seconds of the header and of the frames, their number, and the peak in MiB.
CODE = """
import sys, time, resource
from pathlib import Path
from foldwise.video.decode import probe, read_frames
path = Path(sys.argv[1])
begun = time.process_time()
found = probe(path)
header = time.process_time() - begun
count = sum(1 for _ in read_frames(path, fps=1))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"{found.frames} frames; header {header:.2f} s CPU; {count} kept", end="; ")
print(f"{time.process_time() - begun - header:.1f} s CPU; peak {used:.0f} MiB")
"""


def make(path: Path, minutes: float) -> None:
    """Encode a texture that moves."""
    coarse = np.random.default_rng(0).integers(20, 235, (SIZE[0] // 16, SIZE[1] // 16, 3)).astype(np.uint8)
    texture = coarse.repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        for number in range(round(minutes * 60 * 25)):
            rgb = np.roll(texture, (number // 2, 3 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())


def remux(source: Path, target: Path) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        written = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = written
                new.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    checkouts = {"this checkout": here, **({"the other one": options.against} if options.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        mp4, mkv = Path(folder) / "a.mp4", Path(folder) / "a.mkv"
        make(mp4, options.minutes)
        remux(mp4, mkv)
        for path in (mp4, mkv):
            for name, checkout in checkouts.items():
                environment = {**os.environ, "PYTHONPATH": str(checkout / "workflow")}
                words = [sys.executable, "-c", CODE, str(path)]
                done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
                print(f"{path.suffix[1:]}, {name}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
