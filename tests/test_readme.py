"""What README says must be so. Run alone: python -m pytest tests/test_readme.py"""

import json
import re
from pathlib import Path

from hermes_nb import bench, cli, evaluate, recipes, stamp

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_figures_are_read_from_the_measured_run():
    """A number typed by hand is out of date after the next change: `make results` writes them."""
    file = re.search(r"<!-- results: (\S+) -->\n(.*?)\n<!-- /results -->", README, re.S)
    measured = json.loads((ROOT / file[1]).read_text(encoding="utf-8"))
    assert file[2].strip() == evaluate.markdown(measured).strip()


def test_the_data_side_s_figures_are_the_measured_ones():
    """`make bench` writes them, and none of its promises was missed."""
    file = re.search(r"<!-- bench data: (\S+) -->\n(.*?)\n<!-- /bench data -->", README, re.S)
    measured = json.loads((ROOT / file[1]).read_text(encoding="utf-8"))
    assert file[2].strip() == bench.audit_markdown(measured).strip()
    assert measured["misses"] == []


def test_commands_recipes_and_targets_exist():
    """A README whose commands do not exist is the first thing a newcomer meets."""
    commands = set(re.findall(r"python -m hermes_nb (\w+)", README))
    assert commands <= set(cli.COMMANDS)
    assert set(re.findall(r"hermes_nb run (\w+)", README)) <= set(recipes.names())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make ([a-z-]+)`?", README)) - {"and"} <= targets
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path


def test_one_place_names_the_repository():
    """pyproject.toml; everything else must agree with it."""
    url, ref = stamp.address()
    assert url in README
    name = url.removeprefix("https://github.com/")
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        text = notebook.read_text()
        assert f"github/{name}/blob/{ref}/notebooks/{notebook.name}" in text
        assert f"git+{url}@{ref}" in text


def test_pins_lie_within_the_ranges():
    """The tested set must be one that an install by range would accept."""
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.M))
    pins = {k.lower(): v for k, v in pins.items()}
    listed = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)[1]
    for line in re.findall(r'"(.+?)"', listed):
        need = Requirement(line)
        assert pins[need.name.lower()] in need.specifier, need


def test_the_engine_s_figures_are_the_measured_ones():
    """`make bench` writes them, and none of its promises was missed."""
    file = re.search(r"<!-- bench dpo: ([^>]+) -->\n(.*?)\n<!-- /bench dpo -->", README, re.S)
    measured = [json.loads((ROOT / name).read_text(encoding="utf-8")) for name in file[1].split()]
    assert file[2].strip() == bench.training_markdown(*measured).strip()
    small, large = (told["misses"] for told in measured)
    assert large == []
    assert set(small) <= {"onto the original over cp"}


def test_the_merge_s_figures_are_the_measured_ones():
    """`make bench` writes them. Beside a copy of 2 GB looking at base and adapter takes long, and the page says so."""
    file = re.search(r"<!-- bench merge: ([^>]+) -->\n(.*?)<!-- /bench merge -->", README, re.S)
    measured = [json.loads((ROOT / name).read_text(encoding="utf-8")) for name in file[1].split()]
    assert file[2].strip() == bench.merging_markdown(*measured).strip()
    small, large = (told["misses"] for told in measured)
    assert large == []
    assert set(small) <= {"onto the original over cp"}
