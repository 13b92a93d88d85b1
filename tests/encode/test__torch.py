"""A worker computes on the GPU that it was given, and on no other."""

import json
import subprocess
import sys

import pytest

_ASK = """
import json, sys
import ray
import raycluster.encode._torch as ours

def computes_on():
    import raycluster.encode._torch as ours
    ours._DRIVERS = ("/dev/null",)  # a node with a GPU, that torch can use
    given = not ours._goes_without()
    if given:
        import torch
        torch.cuda.is_available = lambda: True
    return [ours.has_gpu(), "torch" in sys.modules]

@ray.remote(num_cpus=0)
class Actor:
    def ask(self):
        return computes_on()

task = ray.remote(num_cpus=1)(computes_on)
ray.init("local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
asked = [task.remote(), Actor.remote().ask.remote(), task.options(num_gpus=0.5).remote()]
print(json.dumps([*ray.get(asked), not ours._goes_without()]))
"""


@pytest.mark.slow
def test_a_worker_that_was_given_no_gpu_leaves_the_nodes_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # GPU and torch of two that were given none, and of one that was given half of one; a driver takes what it sees
    assert json.loads(done.stdout) == [[False, False], [False, False], [True, True], True]
