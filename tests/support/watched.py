"""A task that notes, in a directory named by WATCHED_IN, how it is learned; a process beside the tests' own ends where
WATCHED_ENDS is set."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import tunas
from support.dots import Dots, agreement

times = []


def noted(logits, labels):
    if "WATCHED_ENDS" in os.environ and multiprocessing.parent_process():
        os._exit(1)
    if "WATCHED_IN" in os.environ:
        times.append(time.time())
        note = {"threads": torch.get_num_threads(), "times": times}
        Path(os.environ["WATCHED_IN"], str(os.getpid())).write_text(json.dumps(note))
    return F.cross_entropy(logits, labels)


def task():
    return tunas.Task(Dots(160, 0), Dots(40, 1), loss=noted, quality=agreement, num_classes=4, name="watched")
