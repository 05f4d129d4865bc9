"""What is installed: ranges that the tested versions lie in, what is imported, a container that can be built."""

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
PACKAGE_OF = {"megatron": "megatron-core", "PIL": "pillow", "yaml": "pyyaml"}
# Imported, and brought by one that is a dependency: transformers, pydantic, jinja2, aiohttp (whose addresses it makes).
BROUGHT = {"tokenizers", "pydantic_core", "markupsafe", "yarl"}
# The user's own choice: asked for by name where they are missing, or done without.
OPTIONAL = {"vllm", "lpips", "wandb", "mlflow", "faiss"}
NOT_IMPORTED = {
    "tensorboard": "torch.utils.tensorboard imports it",
    "webdataset": "the form of the shards; foreign sets are read with it",
}


def imported() -> set[str]:
    names = set()
    for path in (ROOT / "editcaption_mega").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"editcaption_mega"}


def test_dependencies_are_what_the_package_imports():
    names = {requirement.name for requirement in REQUIREMENTS}
    wanted = {PACKAGE_OF.get(name, name) for name in imported() - BROUGHT - OPTIONAL}
    assert "torch" in wanted and names - set(NOT_IMPORTED) == wanted - set(NOT_IMPORTED)


def test_pyproject_has_ranges_and_the_tested_versions_lie_in_them():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    tested = dict(line.split("==") for line in lines)
    tested = {name.lower(): version for name, version in tested.items()}
    for requirement in REQUIREMENTS + EXTRAS:
        assert "==" not in str(requirement.specifier), f"{requirement}: exact versions are in constraints.txt alone"
        if requirement in REQUIREMENTS:
            assert requirement.name in tested, f"{requirement.name} is not in constraints.txt"
        if requirement.name in tested:
            assert requirement.specifier.contains(tested[requirement.name]), requirement


def test_torch_of_a_container_satisfies_the_range():
    """An NVIDIA image's torch is a pre-release with a local version; pip must leave it where it is."""
    (torch,) = (requirement for requirement in REQUIREMENTS if requirement.name == "torch")
    for version in ("2.11.0a0+a1b2c3.nv26.02", "2.12.0a0+0291f960b6.nv26.05.46", "2.13.1"):
        assert torch.specifier.contains(version, prereleases=True), version
    for version in ("2.10.0", "2.14.0a0+a1b2c3.nv26.12", "2.14.0"):
        assert not torch.specifier.contains(version, prereleases=True), version


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, the rest) with continued lines joined and comments left out."""
    text = (ROOT / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def test_the_container_is_made_of_files_that_exist_and_commands_that_parse():
    instructions = dockerfile()
    assert {name for name, _ in instructions} <= {"ARG", "FROM", "SHELL", "WORKDIR", "COPY", "RUN", "USER", "CMD"}
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [source for name, rest in instructions if name == "COPY" for source in rest.split()[:-1]]
    assert {"setup.py", "pyproject.toml", "csrc", "editcaption_mega"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), f"COPY {source}: not in the repository"
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored), f"COPY {source}: in .dockerignore"
    for name, rest in instructions:
        if name == "RUN":
            done = subprocess.run(["bash", "-n", "-c", rest], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    names = [name for name, _ in instructions]
    assert [rest for name, rest in instructions if name == "USER"] == ["editcaption"]
    assert "RUN" not in names[names.index("USER") :], "everything is installed before the user has no rights"
    base = next(rest for name, rest in instructions if name == "ARG")
    assert base.startswith("BASE=") and re.fullmatch(r".*:[0-9]{2}\.[0-9]{2}-py3", base), "one image, not the latest"
    extras = re.search(r"'\.\[(\w+)\]'", next(rest for name, rest in instructions if "--editable" in rest)).group(1)
    assert extras in PROJECT["optional-dependencies"]


def test_the_container_keeps_its_torch(tmp_path):
    """The line that writes the constraint, on a list of packages as such an image has them."""
    run = next(rest for name, rest in dockerfile() if name == "RUN" and "/tmp/image.txt" in rest)
    pattern = re.search(r"grep --extended-regexp --ignore-case '([^']*)'", run).group(1)
    packages = [
        "apex==0.1", "numpy==1.26.4", "nvidia-dali==1.51", "pytorch-triton==3.4", "torch==2.12.0a0+a1.nv26.05",
        "torchvision==0.27.0a0+b2", "torch_tensorrt==2.12", "transformer_engine==2.13+c3", "triton==3.6", "yarl==1.2",
    ]  # fmt: skip
    found = subprocess.run(
        ["grep", "--extended-regexp", "--ignore-case", pattern],
        input="\n".join(packages), capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    names = [line.split("==")[0] for line in found]
    assert names == ["apex", "numpy", "torch", "torchvision", "transformer_engine", "triton"]
    assert run.count("--constraint /tmp/image.txt") == run.count("pip install")
    (torch,) = (requirement for requirement in REQUIREMENTS if requirement.name == "torch")
    assert torch.specifier.contains("2.12.0a0+a1.nv26.05", prereleases=True)


def test_the_build_asks_for_the_same_tools_everywhere():
    """`make setup` and the container build without isolation, so they install what pyproject asks for to build."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    names = [Requirement(line).name for line in requires]
    assert "ninja" in names
    setup = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line)
    assert all(name in setup.split() for name in names), setup
    run = next(rest for name, rest in dockerfile() if name == "RUN" and "--editable" in rest)
    assert all(f"'{line}'" in run for line in requires)


@pytest.mark.slow
def test_an_installed_package_finds_shipped_configurations_by_name(tmp_path):
    """A real wheel, built where there is no compiler, installed into an empty folder, used from another one."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "clone" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    without_compiler = environment | {"CC": "/bin/false", "CXX": "/bin/false"}
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "clone"],
        env=without_compiler, check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert len(shipped) > 20 and {f"editcaption_mega/{name}" for name in shipped} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], env=environment, check=True)
    (tmp_path / "elsewhere").mkdir()

    def editcaption(*words):
        command = [sys.executable, tmp_path / "site/bin/editcaption", *words]
        installed = environment | {"PYTHONPATH": str(tmp_path / "site")}
        return subprocess.run(command, cwd=tmp_path / "elsewhere", env=installed, capture_output=True, text=True)

    assert "train-sft" in editcaption("--help").stdout
    done = editcaption("train-sft", "sft_qwen3_vl_2b")
    assert done.returncode == 2 and "model.folder=models/Qwen3-VL-2B-Instruct: no such folder" in done.stderr
    done = editcaption("train-dpo", "dpo_demo", "model.folder=nowhere")
    assert done.returncode == 2 and "model.folder=nowhere: no such folder" in done.stderr
    done = editcaption("train-sft", "sft_nothing")
    assert done.returncode == 2 and "sft_nothing does not exist" in done.stderr
