"""What the command does to JAX before its backend starts."""

import os
import subprocess
import sys

from jaxpurify.cli.start import cache_folder, cores, forget

ASK = "import jax; print(jax.config.jax_num_cpu_devices, jax.config.jax_compilation_cache_dir)"


def ask(program, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; {ASK}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=kept | environment,
        check=True,
    )
    return done.stdout.split()


def test_the_command_makes_every_core_a_device_and_keeps_programs(tmp_path):
    program = "from jaxpurify.cli.start import start; start()"
    devices, folder = ask(program, XDG_CACHE_HOME=str(tmp_path))
    assert int(devices) == cores()
    assert folder.startswith(str(tmp_path / "jaxpurify/xla"))
    assert ask(program, JAX_NUM_CPU_DEVICES="1", JAX_COMPILATION_CACHE_DIR="/nowhere") == ["1", "/nowhere"]


def test_importing_the_library_changes_nothing():
    assert ask("import jaxpurify, jaxpurify.cli") == ["-1", "None"]


def test_there_is_a_core_and_a_folder_for_its_kind(monkeypatch, tmp_path):
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == cache_folder()
    assert cache_folder().is_relative_to(tmp_path)


def test_the_oldest_programs_are_forgotten(tmp_path):
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(b"0" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    forget(tmp_path, 30)
    assert len(list(tmp_path.iterdir())) == 3
    forget(tmp_path, 15)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
