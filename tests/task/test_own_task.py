"""Searches and trainings of a task of one's own: the same promises as for images."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import tunas
from support.jobs import DOTS, TINY, Job, finished
from support.runs import ALONE, result
from tunas import InputError, Metric, OneOf, Task
from tunas.errors import DivergedError
from tunas.nn import ops
from tunas.run.checkpoint import newest_checkpoint
from tunas.space import FILTERS, chosen, widest
from tunas.train.evaluation import evaluate
from tunas.train.network import network_as_told
from tunas.train.plan import plan_training

TASK = f"{DOTS}:dots"
SEARCH = (
    "search",
    f"--ssd={TINY}",
    f"--task={TASK}",
    "--device=cpu",
    "--train-batch-size=48",
    "--replicas=4",
    "--epochs=4",
    "--log-every=1",
    "--checkpoint-every=3",
)
TRAIN = (
    "train",
    f"--ssd={TINY}",
    "--indices=1:1:1:1:1:1:0:1",
    f"--task={TASK}",
    "--device=cpu",
    "--train-batch-size=48",
    "--epochs=4",
    "--log-every=1",
)


def same_weights(one, two, close=None):
    one, two = newest_checkpoint(one)[0], newest_checkpoint(two)[0]
    assert one.keys() == two.keys()
    for name in one:
        if close is None:
            assert torch.equal(one[name], two[name]), name
        else:
            assert torch.allclose(one[name].double(), two[name].double(), atol=close), name


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("searched")
    finished([*SEARCH, f"--checkpoint-dir={directory}"])
    return directory


def test_a_search_from_the_command_line_says_what_it_learned(searched):
    params = json.loads((searched / "params.json").read_text())
    assert (params["task"], params["dataset"]) == (TASK, "dots") and params["train_dots"] == 160
    assert result(searched)["dataset"] == "dots" and 0 <= result(searched)["shared_weights_agreement"] <= 1


def test_a_killed_search_goes_on_bit_by_bit(searched, tmp_path):
    job = Job([*SEARCH, f"--checkpoint-dir={tmp_path}"])
    job.until_output("search 5/13")
    job.signal(9)
    job.wait()
    finished([*SEARCH, f"--checkpoint-dir={tmp_path}"])
    same_weights(searched, tmp_path)


def test_workers_change_nothing(searched, tmp_path):
    finished([*SEARCH, "--num-workers=2", f"--checkpoint-dir={tmp_path}"])
    same_weights(searched, tmp_path)


def test_two_processes_find_what_one_does(searched, tmp_path):
    finished([*SEARCH, f"--checkpoint-dir={tmp_path}"], 2)
    same_weights(searched, tmp_path, close=1e-5)
    assert result(tmp_path)["indices"] == result(searched)["indices"]


def test_a_training_counts_every_example_once_over_any_number_of_processes(tmp_path):
    finished([*TRAIN, "--use-held-out-test-set", f"--checkpoint-dir={tmp_path}"])
    found = result(tmp_path)
    assert found["dots"] == 37 and {"agreement", "loss", "distance"} <= found.keys() and found["dataset"] == "dots"
    finished(
        [*TRAIN, "--use-held-out-test-set", "--mode=eval", "--eval-batch-size=5", f"--checkpoint-dir={tmp_path}"], 3
    )
    again = result(tmp_path)
    assert again["dots"] == 37 and again["distance"] == pytest.approx(found["distance"], rel=1e-6)
    assert again["agreement"] == pytest.approx(found["agreement"])


class Constant(nn.Module):
    """Gives what it is given."""

    def forward(self, inputs):
        return inputs


def regression(train=None, **settings):
    held = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10.0)[:, None] + 1)
    settings = {"loss": F.mse_loss, "quality": lambda outputs, targets: -F.l1_loss(outputs, targets), **settings}
    return Task(train or held, held, **settings)


def test_metrics_are_counted_over_the_whole_split():
    largest = Metric(lambda outputs, targets: targets.sum(), lambda sums, examples: float(sums))
    found = evaluate(Constant(), regression(metrics={"sum": largest}), "valid", ALONE, batch_size=4)
    assert found.examples == 10
    assert found.metrics == {"quality": pytest.approx(-1), "loss": pytest.approx(1), "sum": 55.0}


def test_torchmetrics_are_accepted():
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.R2Score()
    task = regression(metrics={"r2": metric})
    targets = torch.arange(10.0) + 1
    expected = 1 - 10 / float((targets - targets.mean()).square().sum())
    for batch_size in (3, 10):
        assert evaluate(Constant(), task, "valid", ALONE, batch_size=batch_size).metrics["r2"] == pytest.approx(
            expected
        )
    task = regression(
        metrics={"matrix": torchmetrics.ConfusionMatrix(task="multiclass", num_classes=11)},
        collate=lambda pairs: (
            torch.stack([x for x, _ in pairs])[:, 0].long(),
            torch.stack([y for _, y in pairs])[:, 0].long(),
        ),
        loss=lambda outputs, targets: outputs.sum(),
        quality=lambda outputs, targets: 0.0,
    )
    with pytest.raises(InputError, match=r"the metric 'matrix' must be one number, not a tensor of shape \[11, 11\]"):
        evaluate(Constant(), task, "valid", ALONE)


class OnlyHere:
    """A metric that knows nothing of other processes."""

    def update(self, outputs, targets): ...
    def compute(self): ...


def test_a_metric_that_cannot_be_added_up_is_refused():
    with pytest.raises(InputError, match="the metric 'here' cannot be added up over 2 processes"):
        evaluate(Constant(), regression(metrics={"here": OnlyHere()}), "valid", dataclasses.replace(ALONE, size=2))


def images(**settings):
    held = TensorDataset(torch.rand(20, 3, 8, 8), torch.arange(20) % 10)
    functions = {
        "loss": F.cross_entropy,
        "quality": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean(),
    }
    return Task(held, held, **{"num_classes": 10, **functions, **settings})


CONFIG = tunas.SearchConfig(ssd=TINY, device="cpu", train_batch_size=8, replicas=2, epochs=4)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"loss": lambda o, t: 3.0}, "loss of task must be a tensor, not float"),
        ({"loss": lambda o, t: F.cross_entropy(o, t, reduction="none")}, r"loss of task must be one number .* \[2\]"),
        ({"loss": lambda o, t: F.cross_entropy(o.detach(), t)}, "loss of task has no gradient"),
        ({"loss": lambda o, t: o @ t}, r"loss of task fails: RuntimeError: .*\(test_own_task.py, line \d+\)"),
        ({"quality": lambda o, t: o.argmax(1) == t}, r"quality of task must be one number .* of shape \[2\]"),
        ({"quality": lambda o, t: float("nan")}, "quality of task is nan for the first examples; it must be a number"),
        ({"quality": lambda o, t: "good"}, "quality of task fails: TypeError"),
        ({"prepare": lambda x: x.flatten(1)}, "the network does not take the inputs of task: RuntimeError"),
        ({"prepare": lambda x: x.image}, "prepare of task fails: AttributeError"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(settings, sentence, tmp_path):
    run = tmp_path / "run"
    task = images(**settings)
    with pytest.raises(InputError, match=sentence):
        tunas.search(dataclasses.replace(CONFIG, checkpoint_dir=str(run)), task)
    with pytest.raises(InputError, match=sentence):
        tunas.train(
            tunas.TrainConfig(ssd="mobilenet_v2", device="cpu", epochs=4, train_batch_size=8, checkpoint_dir=str(run)),
            task,
        )
    assert not (run / "params.json").exists()


def test_a_quality_that_stops_being_a_number_is_named(tmp_path):
    asked = iter([0.5] * 3)
    task = images(quality=lambda outputs, targets: next(asked, float("nan")))
    with pytest.raises(DivergedError, match=r"the quality is nan at step 1, architecture "):
        tunas.search(dataclasses.replace(CONFIG, checkpoint_dir=str(tmp_path)), task)


def test_settings_of_the_default_task_are_refused():
    with pytest.raises(InputError, match="image_size is about the images of the default task, and means nothing to"):
        tunas.search(dataclasses.replace(CONFIG, image_size=8), images())
    with pytest.raises(InputError, match="label_smoothing is about the images"):
        tunas.train(tunas.TrainConfig(ssd="mobilenet_v2", label_smoothing=0.2, device="cpu"), images())
    with pytest.raises(InputError, match=r"a task is given, and task='m:t' names another one"):
        tunas.search(dataclasses.replace(CONFIG, task="m:t"), images())
    with pytest.raises(InputError, match=r"a task must be a tunas.Task, not dict"):
        tunas.search(CONFIG, {})


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("nowhere.py:task", "cannot load task 'nowhere.py:task': there is no file nowhere.py"),
        (f"{DOTS}:nothing", "has no attribute 'nothing'"),
        (f"{DOTS}:WIDTH", r"WIDTH is int, not a tunas.Task nor a function that returns one"),
    ],
)
def test_a_task_that_cannot_be_loaded_is_one_sentence(name, sentence):
    with pytest.raises(InputError, match=sentence):
        tunas.search(dataclasses.replace(CONFIG, task=name))


def test_a_dataset_that_shrank_between_two_sessions_is_noticed(tmp_path):
    config = dataclasses.replace(CONFIG, checkpoint_dir=str(tmp_path))
    tunas.search(config, images())
    smaller = images()
    smaller._parts["valid"].size = 19
    with pytest.raises(InputError, match="valid_examples was 20 and is now 19"):
        tunas.search(config, smaller)


class Normed(nn.Module):
    def __init__(self, spec):
        super().__init__()
        (self.width,) = spec
        self.linear, self.norm = ops.Linear(1, widest(self.width)), ops.BatchNorm1d(widest(self.width))

    def forward(self, x, indices=None):
        return self.norm(self.linear(x, chosen(self.width, indices))).mean(1, keepdim=True)


def test_batch_norms_of_a_model_of_ones_own_follow_a_short_training(tmp_path):
    """A momentum for 90 epochs of ImageNet would leave a tenth of the start in the statistics of 230 steps."""
    space = tunas.register_space("normed", lambda: (OneOf((2, 4), FILTERS),), network=Normed)
    config = tunas.TrainConfig(ssd="normed", indices="1", device="cpu", train_batch_size=5, epochs=8, bn_momentum=0.3)
    plan = plan_training(config, 10)
    assert network_as_told(config, space.architecture("1"), regression(), plan).norm.momentum == 0.3
    found = tunas.train(dataclasses.replace(config, checkpoint_dir=str(tmp_path)), regression())
    assert found.document["parameters"] == 4 + 4 + 2 * 4 and found.document["macs"] == 4
