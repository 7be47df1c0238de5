"""Every runtime computes what the network computes, in float32 to the fifth digit, in INT8 nearly."""

import gc
import importlib.util
import warnings

import numpy as np
import pytest
import torch

import tunas
from support.tiny_space import tiny
from tunas import InputError, Space
from tunas.nn import ops
from tunas.runtime import Conversion, Runtime, Session, get_runtime, register_runtime, registry, runtime_names
from tunas.runtime.pytorch import module_on

SPACE = Space("tiny_to_run", tiny())
ALL = [name for name in runtime_names() if "cuda" not in name]
SLOW = ("executorch", "executorch-int8", "torch-cpu-compile")


def named(*names):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]
    )


def runtime_here(name):
    runtime = registry._runtimes[name]
    if missing := [module for module in runtime.requires if importlib.util.find_spec(module) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    return runtime


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = tunas.build_network(SPACE.architecture("1:0:1:0:0:0:0:1"), num_classes=5).train()
    with torch.no_grad():
        for _ in range(20):  # batch norms that have seen data, so that activations have the size that they have in use
            network(torch.randn(16, 3, 32, 32))
        network.head.classifier.weight.mul_(20)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def converted(runtime, network, images, **settings):
    calibration = [(image[None].numpy(),) for image in images[8:]] if runtime.precision == "int8" else []
    return runtime.convert(network, (images[:1],), Conversion(calibration, **settings))


@named(*ALL)
def test_the_artifact_computes_the_networks_output(network, images, name):
    runtime = runtime_here(name)
    session = runtime.open(converted(runtime, network, images), 1)
    expected = network(images[:8]).numpy()
    found = np.concatenate([session(image[None].numpy()) for image in images[:8]])
    if runtime.precision == "int8":
        assert 0 < np.abs(found - expected).max() < 0.15 * np.abs(expected).max()
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.995
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@named(*ALL)
def test_an_artifact_survives_its_files(network, images, name):
    runtime = runtime_here(name)
    artifact = converted(runtime, network, images)
    files = runtime.files(artifact)
    assert next(iter(files)) == runtime.suffix and all(files.values())
    image = images[:1].numpy()
    again = runtime.open(runtime.read(files), 1)(image)
    np.testing.assert_allclose(again, runtime.open(artifact, 1)(image), rtol=0, atol=1e-6)


@named("torch-cpu", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
def test_a_dynamic_batch_takes_any_number_of_examples(network, images, name):
    runtime = runtime_here(name)
    session = runtime.open(converted(runtime, network, images, dynamic_batch=True), 1)
    one_by_one = np.concatenate([session(image[None].numpy()) for image in images[:3]])
    for count in (1, 2, 3):
        np.testing.assert_allclose(session(images[:count].numpy()), one_by_one[:count], rtol=0, atol=1e-5)


@named("openvino", "openvino-int8")
def test_a_session_outlives_the_files_that_it_was_read_from(network, images, name):
    runtime = runtime_here(name)
    image = images[:1].numpy()
    artifact = converted(runtime, network, images)
    expected = runtime.open(artifact, 1)(image)
    session = runtime.open(
        runtime.read({suffix: bytes(bytearray(c)) for suffix, c in runtime.files(artifact).items()}), 1
    )
    gc.collect()
    filler = [bytearray(b"\xff" * 20_000) for _ in range(200)]
    np.testing.assert_allclose(session(image), expected, rtol=0, atol=1e-6)
    assert len(filler) == 200


@named("openvino", "openvino-int8")
def test_what_a_model_knows_beforehand_is_not_worked_out_again(network, images, name):
    model = converted(runtime_here(name), network, images)
    kinds = {operation.get_type_name() for operation in model.get_ops()}
    assert "Convolution" in kinds and not kinds & {"ShapeOf", "Range", "Subtract", "Reshape"}


def test_what_is_timed_returns_what_a_call_returns(network, images):
    runtime = get_runtime("torch-cpu")
    session = runtime.open(converted(runtime, network, images), 1)
    image = images[:1].numpy()
    np.testing.assert_array_equal(session.fetch(session.bound(image)()), session(image))


class OfBytes(torch.nn.Module):
    """What a camera gives, as floats."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 0.5))

    def forward(self, image):
        return image.to(torch.float32) / 255 - self.mean


def test_an_exported_program_moves_to_another_device_with_its_conversions():
    image = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    program = torch.export.export(OfBytes().eval(), (image,))
    assert module_on("meta", program)(image.to("meta")).device.type == "meta"
    assert float(program.module()(image).max()) == 0.5  # which stays where it was


def test_a_runtime_of_ones_own_is_known_by_name(monkeypatch):
    monkeypatch.setattr(registry, "_runtimes", dict(registry._runtimes))
    own = Runtime("mine", lambda network, examples, conversion: network, lambda *_: Session(print), lambda: "my board")
    register_runtime(own)
    assert get_runtime("mine") is own and "mine" in runtime_names()


def test_an_unknown_or_missing_runtime_is_one_sentence(monkeypatch):
    monkeypatch.setattr(registry, "_runtimes", dict(registry._runtimes))
    with pytest.raises(InputError, match="unknown device 'onnx-runtime'; did you mean onnxruntime"):
        get_runtime("onnx-runtime")
    needy = Runtime("needy", print, print, lambda: "", requires=("no_such_runtime",), install="something")
    register_runtime(needy)
    with pytest.raises(InputError, match="'needy' needs no_such_runtime, not installed here: pip install 'something'"):
        get_runtime("needy")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device 'torch-cuda' needs a CUDA GPU, and torch sees none"):
        get_runtime("torch-cuda")


# What torch offers by itself


@pytest.mark.parametrize("same_padding", [False, True])
def test_torchs_own_exporters_say_nothing_about_our_layers(same_padding, tmp_path):
    options = tunas.nn.NetworkOptions(same_padding=same_padding)
    network = (
        tunas.build_network(SPACE.architecture("1:0:1:0:0:1:0:1"), 5, options=options).eval().requires_grad_(False)
    )
    image = torch.randn(1, 3, 32, 32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = torch.jit.trace(network, image)
        program = torch.export.export(network, (image,))
        if exports_onnx := not same_padding and importlib.util.find_spec("onnxscript") is not None:
            torch.onnx.export(network, image, tmp_path / "n.onnx")
    ours = [str(warning.message) for warning in caught if "tunas" in warning.filename]
    assert not ours
    other = torch.randn(1, 3, 32, 32)
    np.testing.assert_allclose(traced(other), network(other), rtol=0, atol=1e-5)
    np.testing.assert_allclose(program.module()(other), network(other), rtol=0, atol=1e-5)
    if exports_onnx:
        session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "n.onnx")
        logits = session.run(None, {session.get_inputs()[0].name: other.numpy()})[0]
        np.testing.assert_allclose(logits, network(other), rtol=0, atol=1e-5)


@named("onnxruntime")
def test_attention_of_sliceable_heads_runs_on_a_device(name):
    attention, places = ops.MultiheadAttention(8, 2, 4).eval(), torch.randn(1, 5, 8)
    runtime = runtime_here(name)
    with torch.no_grad():
        artifact = runtime.convert(attention, (places,), Conversion(inputs=("places",), output="mixed"))
        found = runtime.open(artifact, 1)(places.numpy())
        np.testing.assert_allclose(found, attention(places).numpy(), atol=1e-5)
