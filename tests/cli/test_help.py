"""Help pages and shell completion."""

import dataclasses
import shutil
import subprocess

import pytest

from tunas.cli import COMMANDS, imported, main

SCREEN, COLUMNS = 50, 80


@pytest.fixture(autouse=True)
def terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_says_no_default_that_is_none(name, capsys):
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= SCREEN
    assert "None" not in page
    assert "(default: )" not in page
    assert max(map(len, page.splitlines())) <= COLUMNS
    about = page.split("\n\n")[1].replace("\n ", " ").strip()
    assert about and "  " not in about


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_explains_every_flag(name, capsys):
    assert main([name, "--help-all"]) == 0
    page = capsys.readouterr().out.replace("_", "-")
    config = imported(COMMANDS[name].config)
    flags = [field.name for field in dataclasses.fields(config) if "Positional" not in str(field.type)]
    assert [flag for flag in flags if flag.replace("_", "-") not in page] == []
    assert "(default: None)" not in page


def test_help_names_what_it_leaves_out(capsys):
    main(["search", "--help"])
    page = " ".join(capsys.readouterr().out.split())
    assert "tunas search --help-all shows all" in page
    assert "--rl-temperature" not in page


def test_flags_stand_in_groups(capsys):
    main(["search", "--help-all"])
    page = capsys.readouterr().out
    titles = ["main options", "data options", "cost-and-target options", "run options", "schedule-and-more options"]
    places = [page.index(title) for title in titles]
    assert places == sorted(places)
    assert places[1] < page.index("--dataset-dir") < places[2] < page.index("--rl-cost-model-target") < places[3]


def test_a_help_text_is_wrapped_by_the_terminal_and_not_by_the_source(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    main(["search", "--help-all"])
    assert "A run that is there already goes on. A new one under runs/ where left out." in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_flags(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        spec = "$(complete -p tunas | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
        ask = f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; {spec} tunas "{words[-1]}" "{words[-2]}"'
        command = f'source {script}; {ask}; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.split()

    assert completed("tunas", "sea") == ["search"]
    assert "--rl-cost-model-target" in completed("tunas", "search", "--rl-cost")


def test_help_shows_what_has_to_be_said_first(capsys):
    for command, flag in [("design", "--latency"), ("teach", "--teacher"), ("export", "--runtime")]:
        main([command, "--help"])
        assert flag in capsys.readouterr().out


def test_completion_for_tcsh_says_which_package_it_needs(monkeypatch, capsys):
    monkeypatch.setattr("tunas.needs.has_package", lambda name: False)
    assert main(["completion", "tcsh"]) == 2
    assert "completion for tcsh needs shtab, not installed here: pip install 'shtab'" in capsys.readouterr().err
