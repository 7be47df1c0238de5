import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tunas import InputError
from tunas.run import lock as run_lock
from tunas.run.directory import MODEL_SPEC, PARAMS, check_directory, is_altered, open_run, read_params
from tunas.run.history import HISTORY, note_session, read_history
from tunas.run.lock import LOCK, locked

PARAMETERS = {"seed": 0, "ssd": "tiny", "constraint": ("params=5",), "num_workers": 2}


def test_parameters_and_model_spec_are_written_first(tmp_path):
    open_run(tmp_path / "deep" / "run", PARAMETERS, "{}")
    assert read_params(tmp_path / "deep" / "run") == {**PARAMETERS, "constraint": ["params=5"]}
    assert {path.name for path in (tmp_path / "deep" / "run").iterdir()} == {PARAMS, MODEL_SPEC, HISTORY}


def test_an_altered_parameter_or_model_spec_is_noticed(tmp_path):
    for name in (PARAMS, MODEL_SPEC):
        open_run(tmp_path / name, PARAMETERS, '{"filters": 16}')
        assert not is_altered(tmp_path / name)
        text = (tmp_path / name / name).read_text()
        for old, new in (("tiny", "tidy"), ("16", "24"), ("seed", "send")):
            (tmp_path / name / name).write_text(text.replace(old, new))
            assert is_altered(tmp_path / name) == (old in text)
    (tmp_path / name / PARAMS).write_text('{"ssd": "by another hand"}')
    assert not is_altered(tmp_path / name), "a run that left no checksum cannot be judged"


def test_the_same_run_goes_on(tmp_path):
    for _ in range(2):
        open_run(tmp_path, PARAMETERS, "{}")


def test_harmless_differences_are_accepted_and_written_down(tmp_path):
    open_run(tmp_path, PARAMETERS, "{}")
    open_run(tmp_path, {**PARAMETERS, "num_workers": 7}, "{}")
    assert read_params(tmp_path)["num_workers"] == 7


def test_what_changes_only_what_comes_is_allowed_said_and_noted_in_the_history(tmp_path, capsys):
    open_run(tmp_path, {**PARAMETERS, "on_bad_image": "fail"}, "{}")
    (tmp_path / "checkpoint-0000000040.safetensors").write_bytes(b"")
    open_run(tmp_path, {**PARAMETERS, "on_bad_image": "skip"}, "{}")
    assert "from now on: on_bad_image was 'fail' and is now 'skip' (noted in" in capsys.readouterr().err
    open_run(tmp_path, {**PARAMETERS, "on_bad_image": "skip"}, "{}")
    assert not capsys.readouterr().err
    first, second, third = read_history(tmp_path)
    assert (first["step"], first["changes"]) == (0, {}) and (third["step"], third["changes"]) == (40, {})
    assert (second["step"], second["changes"]) == (40, {"on_bad_image": {"was": "fail", "is": "skip"}})


def test_a_session_killed_while_it_wrote_its_line_leaves_the_others_readable(tmp_path):
    note_session(tmp_path, {})
    with open(tmp_path / HISTORY, "a") as file:
        file.write('{"step": 1')
    note_session(tmp_path, {"device": ("cpu", "cuda")})
    assert [session["changes"] for session in read_history(tmp_path)] == [{}, {"device": {"was": "cpu", "is": "cuda"}}]


def test_every_other_difference_is_listed_and_refused(tmp_path):
    open_run(tmp_path, PARAMETERS, "{}")
    with pytest.raises(InputError) as caught:
        open_run(tmp_path, {**PARAMETERS, "seed": 1, "ssd": "other", "num_workers": 0, "new": 3}, "{}")
    sentence = str(caught.value)
    assert all(
        part in sentence
        for part in ("seed was 0 and is now 1", "ssd was 'tiny' and is now 'other'", "new was None and is now 3")
    )
    assert "num_workers" not in sentence and read_params(tmp_path)["seed"] == 0


def test_another_tower_under_the_same_name_is_refused(tmp_path):
    open_run(tmp_path, PARAMETERS, "{}")
    with pytest.raises(InputError, match="of another search space"):
        open_run(tmp_path, PARAMETERS, "{ }")
    (tmp_path / MODEL_SPEC).write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="damaged"):
        open_run(tmp_path, PARAMETERS, "{}")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 10**5])
def test_damaged_parameters_are_one_sentence(tmp_path, content):
    open_run(tmp_path, PARAMETERS, "{}")
    (tmp_path / PARAMS).write_bytes(content)
    with pytest.raises(InputError, match=r"params\.json"):
        open_run(tmp_path, PARAMETERS, "{}")


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("\\section{}")
    with pytest.raises(InputError, match=r"holds no params\.json \(but thesis\.tex\)"):
        open_run(tmp_path, PARAMETERS, "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_left_of_a_run_killed_before_its_parameters_were_written_is_no_obstacle(tmp_path):
    (tmp_path / "cache").mkdir()
    for name in ("data.json", MODEL_SPEC, LOCK, ".params.json.xyz.partial"):
        (tmp_path / name).write_text("{}")
    check_directory(tmp_path)


def test_a_file_and_a_path_below_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_directory(tmp_path / "file")
    with pytest.raises(InputError, match="Not a directory"), locked(tmp_path / "file" / "run"):
        pass


def test_a_lock_names_host_and_process_and_goes_with_its_context(tmp_path):
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text()) == {"host": os.uname().nodename, "pid": os.getpid()}
    assert not list(tmp_path.iterdir())


def test_a_directory_made_for_a_run_that_came_to_nothing_goes_again(tmp_path):
    with pytest.raises(InputError), locked(tmp_path / "new"):
        raise InputError("no such space")
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "something").write_text("")
    assert (tmp_path / "new" / "something").exists()


def test_a_second_one_is_refused_with_host_and_process(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(InputError, match=f"in use by process {os.getpid()} on {os.uname().nodename}; wait"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def other_process(path):
    """Another process that holds the lock until it is killed."""
    program = "import sys, time; from pathlib import Path; from tunas.run.directory import locked\n"
    program += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    process = other_process(tmp_path)
    with pytest.raises(InputError, match=f"process {process.pid} on"), locked(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_lock_left_behind_whose_process_number_is_in_use_again_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": os.uname().nodename, "pid": os.getppid()}))
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": -1}', b'{"pid": 1e400}', b"\xff" * 40, b"\0" * 9000])
def test_a_damaged_lock_left_behind_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path):
        pass


def test_the_lock_of_a_silent_machine_is_taken_over_and_that_of_a_live_one_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "SILENCE", 0.5)
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with locked(tmp_path):
        pass
    assert "is locked by process 7 on elsewhere: watching" in capsys.readouterr().err
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    ended = threading.Event()

    def touch():
        while not ended.wait(0.05):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(InputError, match="in use by process 7 on elsewhere"), locked(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_lock_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.01)
    with locked(tmp_path):
        first = (tmp_path / LOCK).stat().st_mtime_ns
        until = time.monotonic() + 60
        while (tmp_path / LOCK).stat().st_mtime_ns == first:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_forked_process_that_outlives_the_run_does_not_hold_its_lock(tmp_path):
    read_end, write_end = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if not child:
            os.read(read_end, 1)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.write(write_end, b"x")
        os.waitpid(child, 0)


def test_of_many_that_start_at_once_on_a_stale_lock_one_gets_it(tmp_path):
    """Each holds the directory for a moment and checks that nobody else does."""
    for round in range(5):
        path = tmp_path / str(round)
        path.mkdir()
        (path / LOCK).write_text(json.dumps({"host": os.uname().nodename, "pid": 2**30}))
        inside, got, wrong = [0], [0], [0]
        barrier = threading.Barrier(8)

        def attempt(path=path, inside=inside, got=got, wrong=wrong, barrier=barrier):
            barrier.wait()
            try:
                with locked(path):
                    inside[0] += 1
                    wrong[0] += inside[0] != 1
                    got[0] += 1
                    time.sleep(0.02)
                    inside[0] -= 1
            except InputError:
                pass

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got[0] >= 1 and wrong[0] == 0


def test_relative_paths_are_found_where_the_run_began(tmp_path, monkeypatch):
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    for place in (began, elsewhere):
        place.mkdir()
    (began / "phone.json").write_text("{}")
    (began / "images").mkdir()
    told = {**PARAMETERS, "cost_model": ["phone.json", "macs"], "dataset_dir": "images"}
    monkeypatch.chdir(began)
    open_run(began / "run", told, "{}")
    assert read_params(began / "run") == {**json.loads(json.dumps(told)), "relative_to": [str(began)]}
    monkeypatch.chdir(elsewhere)
    found = read_params(began / "run")
    assert found["cost_model"] == [str(began / "phone.json"), "macs"] and found["dataset_dir"] == str(began / "images")
    (elsewhere / "images").mkdir()
    assert read_params(began / "run")["dataset_dir"] == "images"  # what is here comes first
    open_run(began / "run", told, "{}")  # the same run


def test_a_run_without_relative_paths_says_nothing_of_them(tmp_path):
    open_run(tmp_path / "run", {**PARAMETERS, "cost_model": "macs", "dataset_dir": None}, "{}")
    assert read_params(tmp_path / "run").keys() == {*PARAMETERS, "cost_model", "dataset_dir"}
