"""A server's URL becomes verbs in Python: `raycluster.connect(url)`, for programs that have no lake at hand, only HTTP.

`client.py` has the verbs, `answer.py` what they return, `wire.py` how a request travels, is sent again and fails.
Nothing here imports Lance, Ray or torch.
"""

from raycluster.client.answer import Added, Answer, Deleted, Hit, Run
from raycluster.client.client import Client
from raycluster.client.wire import NoAnswer

__all__ = ["Added", "Answer", "Client", "Deleted", "Hit", "NoAnswer", "Run"]
