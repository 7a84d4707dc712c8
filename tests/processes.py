"""The command line as a process of its own: started, waited for, killed."""

import os
import signal
import subprocess
import sys
import time


def start(*arguments, threads=1):
    command = [sys.executable, "-m", "t2i_nb.cli", *arguments, "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def finish(process):
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return output


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
