"""An evaluation that is killed with kill -9 goes on where it was, and ends with the same verdicts as one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time

PICTURES = 12 * 8  # twelve categories, seen and held out; two batches


def evaluate(kept):
    command = [sys.executable, "-m", "t2i_nb.cli", "evaluate", "--prompts", "2", "--images", "4", "--steps", "6", "--device", "cpu", "--json", str(kept)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process):
    table, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return table


def test_killed_and_resumed(tmp_path):
    whole = finish(evaluate(tmp_path / "whole.json"))
    killed, end = evaluate(tmp_path / "killed.json"), time.monotonic() + 240
    while not (tmp_path / "killed.json").exists():
        assert time.monotonic() < end and killed.poll() is None, "nothing was kept before the end"
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    kept = json.loads((tmp_path / "killed.json").read_text())["verdicts"]
    assert 0 < len(kept) < PICTURES
    first = kept[0]
    half = {**json.loads((tmp_path / "killed.json").read_text()), "verdicts": [not first, *kept[1:]]}  # a mark: the second call must not draw it again
    (tmp_path / "killed.json").write_text(json.dumps(half))
    finish(evaluate(tmp_path / "killed.json"))
    again, unbroken = (json.loads((tmp_path / name).read_text())["verdicts"] for name in ("killed.json", "whole.json"))
    assert len(unbroken) == PICTURES and again == [not first, *unbroken[1:]]
    assert "full sentence" in whole
