"""Hardware files: those of the package, a user's own, and what is wrong with one."""

import fnmatch
import tomllib

import pytest

from editcaption_mega.planning.timing.hardware import load_hardware, shipped_hardware
from tests.helpers import ROOT

GPUS = ROOT / "editcaption_mega/planning/timing/gpus"


def test_the_shipped_files_are_read():
    assert shipped_hardware() == ["h100", "h200"]
    h100, h200 = map(load_hardware, shipped_hardware())
    assert (h100.name, h200.name) == ("h100", "h200")
    assert h100.peak_flops == h200.peak_flops == 989e12
    assert h200.memory_gib > 1.7 * h100.memory_gib and h200.copy_bandwidth > 1.3 * h100.copy_bandwidth
    for hardware in (h100, h200):
        assert all(entry.rate < hardware.peak_flops for entry in hardware.matmul + hardware.grouped)


def test_every_value_of_a_shipped_file_has_its_source():
    """A comment behind it, or one above it or above its list, with no empty line between."""
    for path in GPUS.glob("*.yaml"):
        lines, explained = path.read_text().splitlines(), False
        assert len(lines) > 40
        for line in lines:
            text, _, comment = line.partition("#")
            explained = bool(line) and (
                explained or bool(comment and (text.strip().startswith("-") or not text.strip()))
            )
            value = text.partition(":")[2].strip()
            if value and not text.startswith(("name", "  ranks_per_node")):
                assert comment or explained, f"{path.name}: {line}"


def test_an_installed_package_has_them():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in GPUS.iterdir():
        name = path.relative_to(ROOT / "editcaption_mega").as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns["editcaption_mega"]), name


def test_rates_go_by_class():
    h100 = load_hardware("h100")
    assert [h100.matmul_rate(n) for n in (0, 255, 256, 1023, 1024, 100_000)] == [
        200e12,
        200e12,
        350e12,
        500e12,
        620e12,
        700e12,
    ]
    assert h100.grouped_rate(1024) > h100.grouped_rate(1023) > h100.grouped_rate(10) > 0
    assert h100.attention_rate(4096, 128) == 319e12
    assert h100.attention_rate(4096, 128, backward=True) == 269e12
    assert h100.attention_rate(4096, 72) == 319e12 * 72 / 96
    assert h100.attention_rate(10, 64) == 100e12


def test_a_job_that_asks_for_flash_attention_3_has_its_rates(own):
    h100 = load_hardware("h100")
    assert h100.with_attention(2) is h100
    faster = h100.with_attention(3)
    assert faster.attention_rate(2048, 128) == 521e12
    assert faster.attention_rate(2048, 128, backward=True) == 418e12
    old = GPUS.joinpath("h100.yaml").read_text().partition("flash_attention_3:")[2].partition("\n\n")[0]
    without = load_hardware(own("flash_attention_3:" + old))
    with pytest.raises(ValueError, match="hardware h100 has no rates under flash_attention_3; add them"):
        without.with_attention(3)


def test_the_reserve_grows_with_what_a_job_uses():
    h100 = load_hardware("h100")
    alone = h100.reserve_gib(ranks=1, all_to_all=False)
    many = h100.reserve_gib(ranks=8, all_to_all=False)
    experts = h100.reserve_gib(ranks=8, all_to_all=True)
    assert (alone, many, experts) == (1.0, 2.5, 5.5)


@pytest.fixture
def own(tmp_path):
    """A user's file with one text in place of another."""

    def write(old="", new=""):
        text = (GPUS / "h100.yaml").read_text()
        assert old in text
        path = tmp_path / "own.yaml"
        path.write_text(text.replace(old, new, 1))
        return path

    return write


def test_a_user_has_a_file_of_the_same_form(own):
    hardware = load_hardware(own("name: h100\nmemory_gib: 79.1", "name: h100_nvl\nmemory_gib: 93.1"))
    assert (hardware.name, hardware.memory_gib) == ("h100_nvl", 93.1)
    assert hardware.links == load_hardware("h100").links


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gib: 79.1", "", "memory_gib is 0.0: give a number above 0"),
        ("name: h100", "", "name is missing"),
        ("fp32_flops: 50e12", "fp32_flops: -1", "fp32_flops is -1.0: give a number above 0"),
        ("copy_bandwidth", "copy_bandwith", "unknown setting 'copy_bandwith': did you mean 'copy_bandwidth'"),
        ("  infiniband: 45e9", "", "links.infiniband is 0.0: give a number above 0"),
        ("  ranks_per_node: 8", "  ranks_per_node: eight", "links.ranks_per_node"),
        ("  - {at_least: 0, rate: 200e12}", "", "matmul has no class with at_least: 0"),
        ("  - {at_least: 0, rate: 200e12}", "  - {at_least: 0, rate: 0}", "matmul: rate is 0.0"),
        ("at_least: 1024, rate: 620e12", "at_least: 4096, rate: 620e12", "matmul has two classes with at_least: 4096"),
        ("rate: 700e12", "rate: 990e12", "matmul with at_least: 4096 has 9.9e+14, more than peak_flops=9.89e+14"),
        ("backward: 286e12", "backward: 1e15", "attention with at_least: 8192 has 1e+15, more than peak_flops"),
        ("memory_gib: 79.1", "memory_gib: 85e9", "memory_gib is 8.5e+10: give the size in GiB"),
        ("allocator_share: 0.03", "allocator_share: 3", "reserve.allocator_share is 3.0: give a share below 1"),
        ("copy_bandwidth: 2.8e12", "copy_bandwidth: .nan", "copy_bandwidth=nan is no number to work with"),
        ("name: h100", "name: [", "own.yaml is not valid YAML: line "),
    ],
)
def test_what_is_wrong_is_one_sentence(own, old, new, message):
    path = own(old, new)
    with pytest.raises(ValueError) as error:
        load_hardware(path)
    text = str(error.value)
    assert message in text and text.count(str(path)) == 1 and "\n" not in text, text


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(ValueError, match="'h300' is neither one of h100, h200 nor a file that exists"):
        load_hardware("h300")
