"""The package as a new user has it: a wheel in an environment of its own, and an empty directory in which he does what
`streams/README.md` says.

Nothing is downloaded. The wheel is built by the setuptools that is installed here, from a copy of what goes into it,
and installed without dependencies. Those are found in this environment, to which a path file leads, after the packages
of the new one; Python does not follow this environment's own path files from there, so the checkout is out of sight.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "streams" / "README.md").read_text()
PACKAGES = ("app", "streams")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    made = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(made), str(source))
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which the wheel is installed."""
    environment = tmp_path_factory.mktemp("environment")
    checked([sys.executable, "-m", "venv", "--without-pip", str(environment)], cwd=environment)
    found = environment / "bin" / "python"
    pip("--python", str(found), "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    where = checked([str(found), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=environment)
    Path(where.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


def test_the_wheel_has_every_module(wheel: Path) -> None:
    """And nothing else: what a checkout has is found in it whether or not it is packed."""
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if name.startswith(tuple(f"{each}/" for each in PACKAGES))}
    assert found == {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".md", ".pyc")
    }


def test_a_new_user_gets_through_the_readme(python: Path, tmp_path: Path) -> None:
    """Every block in its order: the first is `words.py`, the others begin with its import, and what is typed in a shell
    answers what the page says."""
    directory = tmp_path / "empty"
    directory.mkdir()
    where = checked([str(python), "-c", "import app, streams; print(app.__file__, streams.__file__)"], cwd=directory)
    assert all(path.startswith(str(python.parents[1])) for path in where.split())

    shells: list[str] = []
    for number, (language, text) in enumerate(BLOCK.findall(README)):
        if language == "sh":
            shells.append(text)
            continue
        file = directory / (f"step{number}.py" if number else "words.py")
        file.write_text(f"from words import topology\n\n{text}" if number else text)
        checked([str(python), file.name], cwd=directory)
    run, serve = shells
    follow(python, run.splitlines(), directory)
    bodies = follow(python, serve.splitlines(), directory)
    (promised,) = re.findall(r"The first answer begins `([^`]+)`", README)
    assert bodies[0].startswith(promised)
    assert '"items":[{' in bodies[1]


def follow(python: Path, lines: list[str], directory: Path) -> list[str]:
    """Type *lines*: a command that goes on until it is told to end, and URLs to be fetched meanwhile; return what came.
    The port of the page may be another's: what listens there listens at a free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{probe.getsockname()[1]}"
    command, *fetches = (shlex.split(line) for line in lines)
    assert command[0] == "python"
    output = directory / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            [str(python), *command[1:]],
            cwd=directory,
            env={**clean_environment(), "STREAMS_HTTP_BIND": bind, "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(process, output, "partitions active")
        bodies = [fetch(url.replace("127.0.0.1:8080", bind)) for _curl, url in fetches]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0, output.read_text()
        return bodies
    finally:
        if process.poll() is None:
            for each in (*psutil.Process(process.pid).children(recursive=True), process):
                each.kill()
            process.wait(LIMIT_S)


def wait_for(process: "subprocess.Popen[bytes]", output: Path, words: str) -> None:
    end_at = time.monotonic() + LIMIT_S
    while words not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end_at, output.read_text()
        time.sleep(0.05)


def fetch(url: str) -> str:
    """Return the answer; a partition that restores yet is asked again, as its 503 says."""
    end_at = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end_at:
                raise AssertionError(f"{url}: {error.code} {error.read()!r}") from error
            time.sleep(0.1)


def pip(*arguments: str) -> None:
    checked([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], cwd=ROOT.parent)


def checked(command: list[str], *, cwd: Path) -> str:
    """Run *command* to its end and return its output."""
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """This process' variables without those that would lead Python to the checkout, or an application elsewhere."""
    return {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "STREAMS_", "PIP_"))}
