"""DynoSim's replay of the same trace, where ``ai-dynamo-runtime`` is installed: prints seconds."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    try:
        from dynamo._core import run_mocker_trace_replay
    except ImportError:
        print(json.dumps({"name": "dynosim", "skipped": "ai-dynamo-runtime is not installed"}))
        return 0
    raw = Path(sys.argv[1]).read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(text)
        file.flush()
        for attempt in range(4):
            begun = time.process_time()
            run_mocker_trace_replay([file.name], num_workers=4, trace_block_size=512)
            seconds = time.process_time() - begun
            if attempt == 0:
                continue  # The first one loads.
            count = text.count(b"\n")
            result = {"name": "dynosim", "requests": count, "seconds": round(seconds, 3)}
            print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
