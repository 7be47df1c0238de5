"""The commands as a user types them."""

import contextlib
import csv
import io
import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tunas
from support.published import EXAMPLE_PROXYLESS
from tunas.cli import COMMANDS, main
from tunas.cli.flags import parsed

TINY = """
from tunas.space import FILTERS, OP, RELU, Block, Conv, GlobalAveragePool, InvertedBottleneck
from tunas.space import OneOf, Residual, Times, Tower, Zero

def tiny():
    bottleneck = InvertedBottleneck(kernel=OneOf([3, 5], OP), expansion=OneOf([Times(2), Times(4)], FILTERS), stride=2)
    return Tower([
        Block([Conv(3, stride=2), RELU], filters=8),
        Block([bottleneck, Residual(OneOf([bottleneck.with_stride(1), Zero()], OP))], filters=OneOf([8, 16], FILTERS)),
        Block([Conv(1), RELU, GlobalAveragePool()], filters=32),
    ])
"""
SMALL_RUN = ["--image_size=16", "--epochs=2", "--train_batch_size=64", "--device=cpu"]


@pytest.fixture(scope="module")
def tiny_space(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("spaces") / "my_spaces.py"
    file.write_text(TINY)
    return f"{file}:tiny"


@pytest.fixture(scope="module")
def finished_search(tiny_space: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "search"
    assert main(["search", f"--ssd={tiny_space}", f"--checkpoint_dir={directory}", *SMALL_RUN]) == 0
    return directory


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: tunas {name}" in capsys.readouterr().out


def test_help_and_import_wait_neither_for_torch_nor_for_timm() -> None:
    code = (
        "import sys, tunas, tunas.cli\n"
        "tunas.cli.main(['--help'])\n"
        "tunas.get_space('mobilenet_v2')\n"
        "print({'torch', 'timm'} & {*sys.modules})\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip().endswith("set()")


def test_the_module_runs_as_the_command_does() -> None:
    run = subprocess.run([sys.executable, "-m", "tunas", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"tunas {tunas.__version__}"


def test_an_unknown_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serach"]) == 2
    assert capsys.readouterr().err == "tunas: unknown command 'serach'; did you mean search?\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --epoch 3", "there is no flag --epoch; did you mean --epochs?"),
        ("cost --indcies=1", "there is no flag --indcies; did you mean --indices?"),
        ("train --no-epochs", "there is no flag --no-epochs; did you mean --epochs?"),
        ("train --epochs many", "--epochs many: give a number"),
        ("train --epochs=", "--epochs=: give a number"),
        ("train --device cpu --epochs", "--epochs needs a value: a number"),
        ("train --epochs 3 4", "'4' after --epochs 3 belongs to no flag"),
        ("train further", "'further' belongs to no flag"),
        ("train --crop_scale 0.5", "--crop_scale 0.5: give 2 values, each a number"),
        ("train --recipe=tiny", "--recipe=tiny: give auto, published, small or modern"),
        ("train --use_held_out_test_set=maybe", "--use_held_out_test_set=maybe: give true, false or nothing"),
        ("train --use_held_out_test_set now", "'now' after --use_held_out_test_set belongs to no flag"),
        ("search --choose_from 1.5", "--choose_from 1.5: give a whole number"),
        ("search --rl_cost_model_target=70 --rl_cost_model_target=x", "--rl_cost_model_target=x: give a number"),
        ("measure --device=cpu", "--ssd is missing: Search space"),
        ("completion fish", "fish: give bash, zsh or tcsh"),
        ("spaces one two", "'two' after one belongs to no flag"),
    ],
)
def test_wrong_words_are_said_in_one_sentence(words: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"tunas: {said}") and err.count("\n") == 1
    assert err.endswith(f"; `tunas {words.split()[0]} --help-all` explains every flag\n")


def test_spaces_lists_every_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in tunas.space_names())
    assert "2.16e+21" in text and "1.39e+28" in text and "8.48e+42" in text


def test_spaces_prints_the_layers_of_an_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", "proxylessnas_search", "--indices", EXAMPLE_PROXYLESS]) == 0
    text = capsys.readouterr().out
    assert text.count("InvertedBottleneck") + text.count("skip") == 21
    assert main(["spaces", "mobilenet_v3_large"]) == 0
    assert "×" in capsys.readouterr().out


def test_cost_prints_milliseconds_parameters_and_macs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--ssd=proxylessnas_search", f"--indices={EXAMPLE_PROXYLESS}"]) == 0
    text = capsys.readouterr().out
    assert "estimated cost: 84.0166" in text and " ms (Pixel 1" in text
    assert "parameters: 3,932,560" in text
    assert main(["cost", "--ssd=proxylessnas_search", f"--indices={EXAMPLE_PROXYLESS}", "--cost_model=params"]) == 0
    assert capsys.readouterr().out.startswith("estimated cost: 3,932,560 parameters")


def test_sample_keeps_to_the_range_of_the_released_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--ssd=mobilenet_v3_like_search", "--num_samples=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    space = tunas.get_space("mobilenet_v3_like_search")
    model = tunas.load_cost_model("pixel1", space)
    assert len(found) == 3
    for entry in found:
        assert 57 <= entry["cost"] <= 59
        assert model.estimate(space.architecture(entry["indices"])) == pytest.approx(entry["cost"])


def test_sample_writes_the_columns_of_the_released_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "random.csv"
    assert (
        main(["sample", "--min-cost=80", "--max-cost=90", "--num-samples=2", "--output-format=csv", f"--output={file}"])
        == 0
    )
    rows = list(csv.DictReader(file.open()))
    assert list(rows[0]) == [
        "ssd",
        "indices",
        "simulated_pixel1_time_ms",
        "90epoch_validation_accuracy",
        "360epoch_test_accuracy",
    ]
    assert all(80 <= float(row["simulated_pixel1_time_ms"]) <= 90 for row in rows) and len(rows) == 2


def test_sample_says_when_nothing_lies_in_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--min_cost=1", "--max_cost=2"]) == 2
    assert "found 0 of 1 architectures of proxylessnas_search that cost 1 to 2 ms" in capsys.readouterr().err
    assert main(["sample", "--min_cost=3", "--max_cost=2"]) == 2
    assert capsys.readouterr().err == "tunas: min_cost 3 is above max_cost 2\n"


def test_a_search_leaves_a_run_that_analyze_reads(
    finished_search: Path, tiny_space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("params.json", "model_spec.json", "result.json", "data.json"):
        assert (finished_search / name).is_file()
    result = json.loads((finished_search / "result.json").read_text())
    capsys.readouterr()
    assert main(["analyze", f"--dirname={finished_search}"]) == 0
    lines = dict(line.split(" = ") for line in capsys.readouterr().out.splitlines() if line)
    assert lines["indices"] == result["indices"]
    assert float(lines["cost_model"]) == pytest.approx(result["cost"])
    assert int(lines["global_step"]) == result["steps"] - 1


def test_a_search_that_misses_says_how_to_land_and_a_firm_tolerance_that_is_missed_is_no_success(
    tiny_space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tunas.get_space(tiny_space)
    model = tunas.load_cost_model("macs", space, image_size=16, num_classes=10)
    costs = np.unique(model.estimate(np.array(list(itertools.product(*map(range, space.sizes))))))
    widest = (costs[1:] / costs[:-1]).argmax()
    target = (costs[widest] + costs[widest + 1]) / 2
    assert costs[widest + 1] / target > 1.011, "no architecture is within 1 %"
    settings = [f"--ssd={tiny_space}", f"--checkpoint_dir={tmp_path}", *SMALL_RUN, f"--rl_cost_model_target={target}"]
    assert main(["search", *settings]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["within_tolerance"] is None
    (advice,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("closer to the target: tunas analyze ")
    ]
    assert main([word for word in advice.split() if word == "analyze" or word.startswith("--")]) == 3
    (nearest,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("indices = ")]
    indices, _, remark = nearest.removeprefix("indices = ").partition("  # ")
    assert f"% off the target of {target:g} MACs, more than 1.00%" in remark
    assert main(["search", *settings, "--rl_cost_model_tolerance=0.01"]) == 3
    printed = capsys.readouterr().out
    assert f"indices = {indices}" in printed and "closer" not in printed and "missed: no architecture near" in printed
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["tolerance"], result["within_tolerance"]) == (0.01, False)


def test_analyze_reads_many_runs_as_csv(finished_search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", f"--dirname={finished_search.parent}/*", "--output_format=csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["directory"] == str(finished_search) and float(row["cost_model"]) > 0


def test_the_found_architecture_trains_and_a_checkpoint_of_it_evaluates_alike(
    finished_search: Path, tiny_space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    indices = json.loads((finished_search / "result.json").read_text())["indices"]
    model = [f"--ssd={tiny_space}", f"--indices={indices}", "--image_size=16", "--device=cpu"]
    assert main(["train", *model, f"--checkpoint_dir={tmp_path}/train", "--epochs=4"]) == 0
    trained = json.loads((tmp_path / "train/result.json").read_text())
    assert trained["images"] == 360 and trained["split"] == "valid" and 0 <= trained["accuracy"] <= 1
    (checkpoint, *_) = sorted((tmp_path / "train").glob("checkpoint-*"), reverse=True)
    for _ in range(2):  # into the same directory again
        assert (
            main(["train", *model, "--mode=eval", f"--checkpoint={checkpoint}", f"--checkpoint_dir={tmp_path}/eval"])
            == 0
        )
    evaluated = json.loads((tmp_path / "eval/result.json").read_text())
    assert (evaluated["accuracy"], evaluated["loss"]) == (trained["accuracy"], trained["loss"])


def test_booleans_are_given_as_in_the_original(tiny_space: str, tmp_path: Path) -> None:
    for number, flag in enumerate(("--enable_cost_model=False", "--noenable_cost_model", "--no-enable-cost-model")):
        directory = tmp_path / str(number)
        assert (
            main(["search", f"--ssd={tiny_space}", f"--checkpoint_dir={directory}", flag, *SMALL_RUN, "--epochs=0.1"])
            == 0
        )
        assert json.loads((directory / "params.json").read_text())["enable_cost_model"] is False
        assert json.loads((directory / "result.json").read_text())["cost"] is None


def test_a_flag_of_several_values_takes_them_one_by_one_or_together() -> None:
    from tunas import ExportConfig
    from tunas.cli import plain_words

    together = ["--runtime", "onnxruntime", "timm", "--out=o", "--runtime=openvino", "torch-cpu"]
    one_by_one = [
        *("--runtime", "onnxruntime", "--runtime", "timm", "--out=o"),
        *("--runtime=openvino", "--runtime", "torch-cpu"),
    ]
    assert plain_words(ExportConfig, together) == one_by_one


BAD = {
    "unknown space": (
        ["search", "--ssd=proxylesnas_search"],
        "unknown space 'proxylesnas_search'; did you mean proxylessnas_search",
    ),
    "no indices": (["cost", "--ssd=proxylessnas_search"], "takes 73 indices, but 0 were given; the flag for them"),
    "no teacher": (["teach"], "no teacher is named; give --teacher=RUN"),
    "nothing to search": (["search", "--ssd=mobilenet_v2"], "one fixed architecture, there is nothing to search"),
    "target 0": (["search", "--rl_cost_model_target=0"], "rl_cost_model_target must be a positive number, not 0"),
    "negative target": (
        ["search", "--rl_cost_model_target=-3"],
        "rl_cost_model_target must be a positive number, not -3",
    ),
    "positive exponent": (["search", "--rl_cost_model_exponent=0.1"], "exponent must be 0 or below"),
    "long warmup": (
        ["search", "--increase_ops_warmup_steps_fraction=0.5"],
        "but the controller starts to learn after 0.25",
    ),
    "indivisible": (
        ["search", "--train_batch_size=100", "--replicas=3"],
        "100 examples cannot be divided among 3 replicas",
    ),
    "no batch": (["search", "--epochs=0.01"], "are less than one batch of 64"),
    "unknown device": (["search", "--device=tpu"], "unknown device 'tpu'"),
    "no such cost model": (["search", "--cost_model=pixel9"], "there is no cost model 'pixel9'"),
    "odd constraint": (["search", "--constraint", "params"], "a constraint reads name=limit"),
    "cost samples": (
        ["search", "--num_cost_samples=64", "--rl_reward_function=mnas"],
        "works with the abs reward only",
    ),
    "missing indices": (["train", "--ssd=proxylessnas_search"], "name one of its architectures with --indices"),
    "wrong length": (["train", "--ssd=proxylessnas_search", "--indices=0:1"], "takes 73 indices, but 2 were given"),
    "out of range": (
        ["cost", "--ssd=proxylessnas_search", "--indices=" + EXAMPLE_PROXYLESS.replace("0:0:0:1", "0:7:0:1", 1)],
        "index 7 at position 1 (blocks/1/layers/0) of proxylessnas_search is out of range: there are 3 choices, 0 to 2",
    ),
    "not integers": (["cost", "--ssd=proxylessnas_search", "--indices=a:b"], "'a' is not an integer"),
    "no weights": (["train", "--mode=eval"], "there is no checkpoint in"),
    "no file": (["train", "--mode=eval", "--checkpoint=/nowhere.pth"], "there is no checkpoint file /nowhere.pth"),
    "no dataset": (["train", "--dataset_dir=/nowhere"], "/nowhere"),
    "no run": (["analyze", "--dirname=/nowhere/*"], "no directory matches '/nowhere/*'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, sentence = BAD[name]
    if words[0] in ("search", "train"):
        words = [*words, f"--checkpoint_dir={tmp_path}/run"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("tunas: ") and error.count("\n") == 1
    assert not (tmp_path / "run" / "params.json").exists()


def test_a_foreign_directory_is_left_alone(tiny_space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(["search", f"--ssd={tiny_space}", f"--checkpoint_dir={tmp_path}", *SMALL_RUN]) == 2
    assert "is not empty and holds no params.json (but thesis.tex)" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_parameters_are_refused_with_the_differences(
    finished_search: Path, tiny_space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", f"--ssd={tiny_space}", f"--checkpoint_dir={finished_search}", *SMALL_RUN]
    assert main([*words, "--seed=7", "--model_momentum=0.5"]) == 2
    error = capsys.readouterr().err
    assert "seed was 0 and is now 7" in error and "recipe.momentum was 0.9 and is now 0.5" in error
    assert main([*words, "--num_workers=1"]) == 0


def test_what_is_measured_next_is_enough_for_a_fit(tmp_path: Path) -> None:
    from support.jobs import TINY as SPACE
    from tunas.cli.measure import next_line
    from tunas.cost.measure_config import MeasureConfig

    config = MeasureConfig(SPACE, out=f"{tmp_path}/a b.csv", image_size=32, num_architectures=4, rounds=3)
    assert next_line(config, 40) == f"next: tunas fit '--samples={tmp_path}/a b.csv' --ssd={SPACE} --out=my_device.json"
    line = next_line(config, 4)
    words = shlex.split(line.removeprefix("next: tunas measure ").partition("  # ")[0])
    again = parsed(MeasureConfig, words, "tunas measure")
    assert again.num_architectures >= 20 and (again.rounds, again.image_size, again.out) == (3, 32, config.out)


def test_a_place_that_cannot_be_written_is_known_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tunas.study.sample.random_architectures", lambda *arguments: pytest.fail("it samples"))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "samples.json", Path("/proc/nothing/samples.json"), tmp_path):
        assert main(["sample", f"--output={place}"]) == 2
        assert f"cannot write {place}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["measure", "export"])
def test_a_command_without_flags_says_what_it_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert main([name]) == 2
    assert f"tunas {name} --help" in capsys.readouterr().err
