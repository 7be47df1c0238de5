"""Trainings that start from given weights."""

import argparse
import copy
import json
import shutil

import pytest
import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV3

import tunas
from support.jobs import SEARCH, TINY, TRAIN, Job, finished
from tunas import InputError, TrainConfig, get_space, train
from tunas.export.source import network_of
from tunas.nn.timm_weights import from_timm
from tunas.nn.weight_files import read_tensors
from tunas.run.checkpoint import newest_checkpoint
from tunas.task.opening import open_task
from tunas.train.initial import found_weights, initialised
from tunas.train.trained import trained_weights

INDICES = "1:1:1:1:1:1:0:1"
STILL = "--base-learning-rate=1e-30"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("searched")
    finished([*SEARCH, "--epochs=0.5", f"--checkpoint-dir={directory}"])
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    finished([*TRAIN, "--epochs=0.5", f"--checkpoint-dir={directory}"])
    return directory


def parameters(directory):
    return {name: value for name, value in trained_weights(directory).tensors.items() if "running" not in name}


def test_an_architecture_inherits_the_shared_weights_of_a_search(searched, tmp_path):
    finished([*TRAIN, "--epochs=0.1", STILL, f"--init-from={searched}", f"--checkpoint-dir={tmp_path}"])
    space = get_space(TINY)
    supernet = tunas.SuperNet(space, 10)
    with torch.no_grad():
        supernet.flatten().copy_(newest_checkpoint(searched)[0]["weights"])
    expected = supernet.extract(space.architecture(INDICES)).state_dict()
    found = parameters(tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in found if "num_batches" not in name)


def test_more_epochs_of_a_finished_training_are_a_new_one_from_its_weights(trained, tmp_path):
    job = Job([*TRAIN, "--epochs=1", f"--checkpoint-dir={trained}"])
    assert job.wait() == [2] and f"--init_from={trained}" in job.output()
    words = [*TRAIN, "--epochs=0.1", STILL, f"--init-from={trained}", f"--checkpoint-dir={tmp_path}"]
    finished(words)
    before, after = parameters(trained), parameters(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before if "num_batches" not in name)


def test_a_training_that_goes_on_needs_its_first_weights_no_more(trained, tmp_path):
    first = tmp_path / "first.safetensors"
    first.write_bytes(max(trained.glob("checkpoint-*")).read_bytes())
    words = [*TRAIN, "--epochs=0.1", f"--init-from={first}", f"--checkpoint-dir={tmp_path / 'run'}"]
    finished(words)
    first.unlink()
    finished(words)


def test_a_classifier_of_other_classes_is_replaced_also_where_there_are_as_many(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    about = json.loads((trained / "data.json").read_text())
    config = TrainConfig(ssd=TINY, indices=INDICES, image_size=8, init_from=str(tmp_path / "run"))
    architecture, task = get_space(TINY).architecture(INDICES), open_task(config)

    def head():
        _, tensors = initialised(config, architecture, task, tmp_path / "new")
        return [name for name in tensors if name.startswith("head.")]

    assert head() and not capsys.readouterr().err
    names = [*about["class_names"][:-1], "fox"]
    (tmp_path / "run" / "data.json").write_text(json.dumps({**about, "class_names": names}))
    assert not head() and "('9'): its classifier is replaced by a fresh one" in capsys.readouterr().err


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module._orig_mod."])
def test_a_checkpoint_as_timms_train_script_writes_it_is_read(tmp_path, wrapper):
    """With the script's settings in an argparse.Namespace beside the weights, and torch.compile's prefix."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_100", num_classes=7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saver = CheckpointSaver(
        model,
        optimizer,
        args=argparse.Namespace(model="mobilenetv2_100", lr=0.1),
        model_ema=ModelEmaV3(model),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, metric=0.5)
    path = tmp_path / "last.pth.tar"
    saved = torch.load(path, weights_only=False)
    for key in ("state_dict", "state_dict_ema"):
        saved[key] = {wrapper + name: value for name, value in saved[key].items()}
    torch.save(saved, path)
    assert isinstance(saved["args"], argparse.Namespace)
    architecture = get_space("mobilenet_v2").architecture("")
    found = found_weights(path, TrainConfig(ssd="mobilenet_v2"), architecture)
    assert found.timm_model == "mobilenetv2_100"
    expected = from_timm(model.state_dict(), architecture)
    assert all(torch.equal(found.tensors[name], expected[name]) for name in expected)


def test_a_file_that_runs_code_when_it_is_read_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"state_dict": {}, "args": Runs()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"holds more than tensors \(.*exec\) and is not loaded"):
        read_tensors(tmp_path / "bad.pth")
    (tmp_path / "code.py").write_text("print(1)")
    with pytest.raises(InputError, match=r"code.py is no file of weights, or .*; give a .safetensors file, or a state"):
        read_tensors(tmp_path / "code.py")
    with pytest.raises(InputError, match="is a directory; name a file of weights in it"):
        read_tensors(tmp_path)


def test_a_classifier_for_other_classes_is_replaced_and_said_and_the_network_stays_timms(tmp_path, capsys):
    """Gate and batch norm as timm has them, also when the trained network is loaded again."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_large_100", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    config = TrainConfig(
        ssd="mobilenet_v3_large",
        image_size=32,
        train_batch_size=8,
        epochs=0.01,
        base_learning_rate=1e-30,
        init_from=str(tmp_path / "timm.pth"),
        checkpoint_dir=str(tmp_path / "run"),
        mode="train",
        device="cpu",
    )
    train(config)
    assert "tells 7 classes apart and this training 10: its classifier is replaced" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "params.json").read_text())["timm_model"] == "mobilenetv3_large_100"
    network = tunas.load_network(tmp_path / "run")
    assert network.head.classifier.out_channels == 10
    images = torch.randn(2, 3, 64, 64)
    theirs = copy.deepcopy(model).train()  # batch statistics: the running ones have moved by the one step
    ours = network.train()
    with torch.no_grad():
        expected = torch.nn.functional.hardswish(theirs.conv_head(theirs.global_pool(theirs.forward_features(images))))
        found = ours.tower(images)[0]
    assert torch.allclose(found.flatten(1), expected.flatten(1), atol=1e-4)
    params = json.loads((tmp_path / "run" / "params.json").read_text())
    exported, _ = network_of(params, trained_weights(tmp_path / "run").tensors, 10)
    with torch.no_grad():
        assert torch.equal(exported(images), tunas.load_network(tmp_path / "run")(images))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init-from=nothing"], "there is no nothing"),
        (["--init-from=."], "is the directory of no run"),
        (["--init-from={search}", "--filters-multiplier=2"], "leave out --filters_multiplier"),
        (["--init-from={train}", "--filters-multiplier=2"], "does not fit"),
        (["--init-from={train}", "--indices=0:0:0:0:0:0:0:0"], "does not fit"),
        (["--head-epochs=0.05"], "--head_epochs means nothing with --mode=train_and_eval and without --init_from"),
        (["--optimizer=nonsense", "--base-learning-rate=1"], "timm has no optimiser 'nonsense'"),
        (["--init-from={train}", "--padding=same"], "--padding=symmetric; give the same"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(trained, searched, tmp_path, words, message):
    words = [word.format(search=searched, train=trained) for word in words]
    job = Job([*TRAIN, "--epochs=0.1", *words, f"--checkpoint-dir={tmp_path / 'run'}"])
    assert job.wait() == [2] and message in job.output() and job.output().count("\n") == 1
    assert not (tmp_path / "run").exists()
