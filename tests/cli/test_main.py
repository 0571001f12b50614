"""The command as a whole: help, versions, errors, interruptions."""

import os
import subprocess
import sys

import pytest

import jaxpurify
from jaxpurify import cli as command
from jaxpurify.cli import COMMANDS, main


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "jaxpurify", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"COLUMNS": "100"} | environment,
        check=False,
    )


def test_no_argument_and_help_show_every_command(cli):
    assert cli("--help") == cli("-h")
    assert main([]) == 0
    outcome = cli("--help")
    assert outcome.code == 0
    assert all(f"  {name} " in outcome.out for name in COMMANDS)


def test_the_version_is_printed(cli):
    assert cli("--version") == (0, f"jaxpurify {jaxpurify.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_that_fits_the_terminal(cli, name):
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert f"usage: jaxpurify {name}" in out
    assert "Args:" not in out
    assert "Returns:" not in out
    text = [line for line in out.splitlines() if not line.startswith(("    jaxpurify", "usage"))]
    assert max(len(line) for line in text) <= 100


def test_a_command_that_does_not_exist_is_refused(refused):
    assert "unknown command 'evalute', expected one of: evaluate, purify" in refused("evalute")


def test_an_option_that_does_not_exist_ends_in_2(cli):
    code, out, err = cli("evaluate", "--epsilon-s", "3")
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_an_interruption_says_how_to_go_on(cli, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_parsed", interrupt)
    assert cli("evaluate") == (130, "", "jaxpurify: interrupted: the same command goes on where this one stopped\n")
    assert cli("convert").err == "jaxpurify: interrupted: nothing was written\n"


@pytest.mark.parametrize("error", [ValueError, TypeError, OSError, ImportError])
def test_errors_of_others_are_one_line_that_says_where_to_look(cli, monkeypatch, error):
    def fail(*_):
        raise error("this\n  was bad")

    monkeypatch.setattr(command, "_parsed", fail)
    expected = "jaxpurify: this was bad (unforeseen: JAXPURIFY_TRACEBACK=1 shows where)\n"
    assert cli("list") == (2, "", expected)
    monkeypatch.setenv("JAXPURIFY_TRACEBACK", "1")
    with pytest.raises(error, match="this"):
        main(["list"])


def test_what_nobody_expects_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(command, "_parsed", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        main(["list"])


def test_the_module_is_the_command():
    done = shell("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "evaluate" in done.stdout


def test_bad_input_in_a_shell_is_one_line_and_no_traceback(tmp_path):
    done = shell("purify", str(tmp_path / "absent.png"), str(tmp_path / "clean.png"), "--purifier", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"jaxpurify: {tmp_path / 'absent.png'} does not exist: check the path\n"


def test_a_closed_pipe_is_no_error():
    line = f"{sys.executable} -m jaxpurify evaluate --help | true"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.stderr == ""
