"""Samples become the share of time in which somebody speaks: silero-vad's network, in ONNX Runtime.

Its file comes from the installed package, whose own code is left alone: importing it loads torch, and limits it to one
thread for the whole process, encoders included.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from raycluster.errors import MissingPackage
from raycluster.resample import Samples, resample
from raycluster.stage import need

_INSTALL = '"raycluster[speech]"'
_RATE, _THRESHOLD = 16_000, 0.5  # what the network was trained on, and silero-vad's own default
_FRAME, _CONTEXT = 512, 64  # samples that it judges at a time, and those before them that it hears again
_STATE = (1, 1, 128)  # its memory from frame to frame
_CALL = 512  # frames a call: one call a frame takes six times as long
_ERRORS_ONLY = 3


def voice(rate: int) -> Callable[[Samples], float]:
    """Load the network and return the function that says which share of a window at `rate` Hz is speech."""
    session = _session()

    def share(samples: Samples) -> float:
        heard = resample(samples, rate, _RATE)
        count = -(-len(heard) // _FRAME)
        # Silence comes before the first frame, and fills the last.
        padded = np.zeros(_CONTEXT + count * _FRAME, np.float32)
        padded[_CONTEXT : _CONTEXT + len(heard)] = heard
        # frames: (frame, context + time), overlapping
        frames = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + _FRAME)[::_FRAME]
        hidden = cell = np.zeros(_STATE, np.float32)
        spoken = 0
        for start in range(0, count, _CALL):
            inputs = {"input": np.ascontiguousarray(frames[start : start + _CALL]), "h": hidden, "c": cell}
            chances, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
            spoken += int((chances >= _THRESHOLD).sum())
        return spoken / count

    return share


def _session() -> Any:
    runtime = need("onnxruntime", _INSTALL)
    package = find_spec("silero_vad")
    if package is None or not package.origin:
        raise MissingPackage("silero_vad is not installed", fix=f"pip install {_INSTALL}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    path = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
