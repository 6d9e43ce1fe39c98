"""``make wheelhouse`` and the set-up from it, with no network at all.

A project of three files stands in for this one; the Makefile and
cluster/wheelhouse.py are the real ones. What it depends on comes from a
folder: a wheel, and a source package that has to be built.
"""

import os
import platform
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from helpers import paths

# A build backend of the standard library alone, used by each package.
BACKEND = '''
import pathlib
import zipfile

NAME, VERSION = {name!r}, {version!r}


def write(folder, files):
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    wheel = f"{{NAME}}-{{VERSION}}-py3-none-any.whl"
    files[f"{{info}}/METADATA"] = (
        f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n"
    )
    files[f"{{info}}/WHEEL"] = (
        "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    )
    files[f"{{info}}/RECORD"] = ""
    with zipfile.ZipFile(pathlib.Path(folder, wheel), "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def build_wheel(folder, *_):
    return write(folder, {{f"{{NAME}}.py": f"version = {{VERSION!r}}\\n"}})


def build_editable(folder, *_):
    return write(folder, {{f"{{NAME}}.pth": str(pathlib.Path.cwd())}})
'''
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\n' \
          'backend-path = ["."]\n'  # fmt: skip
LOCK = "built.one==1.5\nready_made==2.0\n"
NOWHERE = "http://127.0.0.1:9/simple"


def package(folder, name, version):
    """The sources of a package."""
    folder.mkdir(parents=True)
    backend = BACKEND.format(name=name, version=version)
    (folder / "backend.py").write_text(backend)
    (folder / "pyproject.toml").write_text(PROJECT)
    return folder


def offer(folder):
    """A folder that pip finds packages in: one wheel, one source package."""
    folder.mkdir()
    source = package(folder / "built_one-1.5", "built_one", "1.5")
    (source / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: built.one\nVersion: 1.5\n"
    )
    with tarfile.open(folder / "built_one-1.5.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    ready = package(folder / "ready", "ready_made", "2.0")
    code = "import backend; backend.build_wheel('..')"
    subprocess.run(["python3", "-c", code], cwd=ready, check=True)
    return folder


def make(root, *words, **more):
    """``make`` in a project: exit status and everything printed.

    What this machine or its user tells pip is left out, and what a ``make``
    that runs these tests tells its children (``make[1]:``, say).
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PIP_", "MAKE", "MFLAGS"))
    }
    done = subprocess.run(
        ["make", "LOCKFILE=lock.txt", *words], cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        env={**kept, "PIP_CONFIG_FILE": os.devnull, **more},
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def login(tmp_path_factory):
    """A project after ``make wheelhouse``, where packages are on offer."""
    root = tmp_path_factory.mktemp("login")
    offered = offer(tmp_path_factory.mktemp("index") / "files")
    project = package(root / "project", "tiny_project", "0.1")
    (project / "cluster").mkdir()
    shutil.copy(paths.ROOT / "Makefile", project)
    shutil.copy(paths.ROOT / "cluster" / "wheelhouse.py", project / "cluster")
    (project / "lock.txt").write_text(LOCK)
    status, said = make(
        project, "wheelhouse", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(offered)
    )
    assert status == 0, said
    assert "wheelhouse: 2 wheels" in said
    shutil.rmtree(offered)
    return project


@pytest.fixture
def node(login, tmp_path):
    """A copy of it on a node with no internet."""
    return shutil.copytree(login, tmp_path / "node")


def offline(node, *words):
    """``make setup`` where every index is out of reach."""
    return make(
        node, "setup", "WHEELHOUSE=wheelhouse", *words, PIP_INDEX_URL=NOWHERE,
        PIP_EXTRA_INDEX_URL=NOWHERE, PIP_RETRIES="0", PIP_TIMEOUT="1",
        HTTPS_PROXY="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9",
    )  # fmt: skip


def test_the_wheelhouse_holds_wheels_and_their_sums(login):
    names = {file.name for file in (login / "wheelhouse").iterdir()}
    assert names == {
        "built_one-1.5-py3-none-any.whl", "ready_made-2.0-py3-none-any.whl",
        "sha256sums", "made-for",
    }  # fmt: skip
    done = subprocess.run(
        ["sha256sum", "--check", "sha256sums"], cwd=login / "wheelhouse",
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("OK") == 2
    assert not list(login.glob("*.partial"))


def test_setup_installs_from_it_without_a_network(node):
    status, said = offline(node)
    assert status == 0, said
    code = "import built_one, ready_made as r; print(built_one.version, r)"
    done = subprocess.run(
        [node / ".venv/bin/python", "-c", code], text=True, cwd="/",
        capture_output=True,
    )  # fmt: skip
    assert done.stdout.startswith("1.5 ") and ".venv" in done.stdout
    assert (node / ".venv").is_dir()
    shutil.rmtree(node / "wheelhouse")  # what is set up stays so
    assert make(node, "setup") == (0, "make: Nothing to be done for 'setup'.\n")


def refused(node):
    """What ``make setup`` says; nothing may be installed."""
    status, said = offline(node)
    assert status != 0 and not (node / ".venv").exists()
    lines = [line for line in said.splitlines() if "***" not in line]
    assert len(lines) == 1, said
    return lines[0]


def test_a_wheel_of_the_lock_is_missing(node):
    (node / "lock.txt").write_text(LOCK + "not-there==3.1\nready_made==2.1\n")
    assert refused(node) == (
        "wheelhouse has no wheel of not-there==3.1, ready_made==2.1; run "
        "`make wheelhouse` again where there is internet"
    )


def test_a_wheel_was_not_copied(node):
    (node / "wheelhouse" / "built_one-1.5-py3-none-any.whl").unlink()
    assert "lacks built_one-1.5-py3-none-any.whl" in refused(node)


def test_a_wheel_is_damaged(node):
    wheel = node / "wheelhouse" / "ready_made-2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more.py", "")
    assert f"{wheel.name} is damaged" in refused(node)


def test_no_finished_wheelhouse(node):
    (node / "wheelhouse" / "sha256sums").unlink()
    assert "is no finished wheelhouse" in refused(node)


def test_made_for_another_python(node):
    (node / "wheelhouse" / "made-for").write_text("Python 3.9 on Linux x\n")
    said = refused(node)
    assert "was made for Python 3.9 on Linux x, this is Python 3" in said
    assert platform.machine() in said


def test_system_torch_leaves_torch_out(node):
    (node / "lock.txt").write_text(LOCK + "torch==2.99\n")
    assert "no wheel of torch==2.99" in refused(node)
    status, said = make(
        node, "--dry-run", "setup", "wheelhouse", "WHEELHOUSE=wheelhouse",
        "SYSTEM_TORCH=1",
    )  # fmt: skip
    check, fill = [li for li in said.splitlines() if "wheelhouse.py" in li]
    assert "venv --system-site-packages" in said and "'^torch=='" in said
    for command in (check, fill):
        done = command.replace(" make ", " check ")
        assert subprocess.run(done, shell=True, cwd=node).returncode == 0


def test_a_package_that_cannot_be_had(node):
    (node / "lock.txt").write_text(LOCK + "not-there==3.1\n")
    status, said = make(node, "wheelhouse", PIP_NO_INDEX="1")
    assert status != 0 and "the wheelhouse could not be made" in said
    assert (node / "wheelhouse" / "sha256sums").exists()  # the old one stays
