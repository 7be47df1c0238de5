"""The same scalars in MLflow and Weights & Biases as in the event files, each once."""

import json
import shutil

import pytest

from support.jobs import TINY
from tunas import InputError, SearchConfig, TrainConfig, search, train
from tunas.run import trackers
from tunas.run.events import read_events

SMALL = {"ssd": TINY, "image_size": 8, "device": "cpu", "num_workers": 0, "train_batch_size": 48, "log_every": 1}


class Recorded(trackers.Tracker):
    """Keeps what it is given, in a file, as a server would."""

    def __init__(self, directory, params):
        super().__init__(directory / "recorded.json")
        self.sent = directory / "sent.jsonl"

    def send(self, step, scalars):
        with self.sent.open("a") as file:
            file.writelines(json.dumps([step, name, value]) + "\n" for name, value in scalars.items())

    def close(self):
        pass


def sent(directory):
    return [json.loads(line) for line in (directory / "sent.jsonl").read_text().splitlines()]


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(trackers, "Mlflow", Recorded)
    monkeypatch.setattr(trackers, "need_packages", lambda *_, **__: None)


def test_a_tracker_gets_each_scalar_of_the_event_files_once_also_after_a_resume(recorded, tmp_path):
    config = SearchConfig(
        checkpoint_dir=str(tmp_path), epochs=0.3, replicas=2, checkpoint_every=2, log_to=("mlflow",), **SMALL
    )
    search(config)
    for path in sorted(tmp_path.glob("checkpoint-*"))[1:]:
        path.unlink()
    (tmp_path / "result.json").unlink()
    search(config)
    rows = sent(tmp_path)
    assert len({(step, name) for step, name, _ in rows}) == len(rows)
    scalars, _ = read_events(tmp_path)
    assert {(step, name) for step, values in scalars.items() for name in values} == {(s, n) for s, n, _ in rows}


def test_a_training_hands_on_its_held_out_accuracy_too(recorded, tmp_path):
    indices = "1:1:1:1:1:1:0:1"
    train(TrainConfig(checkpoint_dir=str(tmp_path), indices=indices, epochs=0.2, log_to=("mlflow",), **SMALL))
    scalars, _ = read_events(tmp_path)
    assert {name for values in scalars.values() for name in values} == {name for _, name, _ in sent(tmp_path)}


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr("tunas.needs.has_package", lambda name: False)
    with pytest.raises(InputError, match=r"--log_to=wandb needs wandb.*pip install 'tunas-torch\[wandb\]'"):
        search(SearchConfig(checkpoint_dir=str(tmp_path / "run"), log_to=("wandb",), **SMALL))
    assert not (tmp_path / "run").exists()


def test_the_likeliest_architecture_is_logged_as_text_and_is_no_scalar(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = search(SearchConfig(checkpoint_dir=str(tmp_path), epochs=0.2, replicas=2, **SMALL))
    logged = EventAccumulator(str(tmp_path))
    logged.Reload()
    last = logged.Tensors("architecture/text_summary")[-1]
    assert last.tensor_proto.string_val[0].decode() == result.architecture.text
    assert "architecture/text_summary" not in read_events(tmp_path)[0][last.step]


def test_mlflow_keeps_the_scalars_without_a_server(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    directory = tmp_path / "run"
    search(SearchConfig(checkpoint_dir=str(directory), epochs=0.2, replicas=2, log_to=("mlflow",), **SMALL))
    run = json.loads((directory / "mlflow.json").read_text())["run"]
    history = mlflow.MlflowClient().get_metric_history(run, "rlcontroller/reward")
    rewards = {step: values["rlcontroller/reward"] for step, values in read_events(directory)[0].items()}
    assert {point.step: point.value for point in history} == pytest.approx(rewards)


def test_wandb_keeps_the_scalars_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    directory = tmp_path / "run"
    config = SearchConfig(checkpoint_dir=str(directory), epochs=0.2, replicas=2, log_to=("wandb",), **SMALL)
    search(config)
    journal = json.loads((directory / "wandb.json").read_text())
    assert list((directory / "wandb").glob(f"offline-run-*-{journal['run']}"))
    assert journal["last"]["rlcontroller"] == max(read_events(directory)[0])
    shutil.rmtree(directory / "wandb")
