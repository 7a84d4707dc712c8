"""An evaluation that is killed with kill -9 goes on where it was, and ends with the same verdicts as one that was never stopped."""

import json
import os

import pytest
from processes import finish, kill, start, wait_for

PICTURES = (9 + 3) * 2 * 4  # nine categories, three of them with held-out pairs too; two sentences, four pictures: two batches


def evaluate(kept):
    return start("evaluate", "--prompts", "2", "--images", "4", "--steps", "6", "--json", str(kept))


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9 on Windows")
def test_killed_and_resumed(tmp_path):
    whole = finish(evaluate(tmp_path / "whole.json"))
    file = tmp_path / "killed.json"
    killed = evaluate(file)
    wait_for(file.exists, killed)
    kill(killed)
    half = json.loads(file.read_text())
    first, *others = half["verdicts"]
    assert 0 < len(half["verdicts"]) < PICTURES
    file.write_text(json.dumps({**half, "verdicts": [not first, *others]}))  # a mark: the second call must not draw it again
    finish(evaluate(file))
    again, unbroken = (json.loads((tmp_path / name).read_text())["verdicts"] for name in ("killed.json", "whole.json"))
    assert len(unbroken) == PICTURES and again == [not first, *unbroken[1:]]
    assert "full sentence" in whole
