"""The page on suites and `show METHOD` name every key and option there is, and nothing else."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import load_suite, suite
from benchmarks.cli import main
from benchmarks.explain import explain, meaning
from benchmarks.limits import CHOICES, RANGES
from generators import registry
from probes.methods import METHODS

PAGE = (suite.SUITES / "README.md").read_text()


def shown(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["show", *words])
    return found.exit_code, found.output


def test_the_pages_suite_loads_and_has_as_many_cells_as_it_says(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    cells = load_suite(tmp_path / "mine.toml").cells
    product = re.search(r"(\d) models x (\d) intrinsics x (\d) ranks x (\d) seeds, and (\d) controls", PAGE)
    assert product is not None
    *factors, controls = map(int, product.groups())
    asked = [cell for cell in cells if cell.method == "lora"]
    assert len(asked) == factors[0] * factors[1] * factors[2] * factors[3]
    assert len(cells) - len(asked) == controls


def keys(heading: str) -> list[tuple[list[str], str]]:
    """Rows of the table below a heading: the keys of its first column, and its second column."""
    table = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", names), second) for names, second in found]


def test_every_key_is_on_the_page_with_its_default() -> None:
    told: dict[str, str] = {}
    for names, second in keys("Keys"):
        values = re.findall(r"`([^`]+)`", second) or [""]
        told |= dict(zip(names, values * (len(names) // len(values)), strict=True))
    assert told.keys() == {*suite._TEXTS, *suite.VALUES, "twin"}
    assert {key: told[key] for key in suite.VALUES} == {k: json.dumps(v) for k, v in suite.VALUES.items()}
    assert {name for names, _ in keys("Keys of a `[[grid]]`") for name in names} == {*suite._GRID} - {
        *suite.VALUES
    }


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_option_has_a_meaning(name: str) -> None:
    method = METHODS[name]
    options = {**method.options, **method.extras}
    assert [option for option in options if not meaning(name, option)] == []
    facts = explain(name)
    assert {row["option"]: row["default"] for row in facts["options"]} == options
    status, text = shown(name)
    assert status == 0 and all(f"\n  {option} " in text for option in options)
    for option in options:
        assert all(choice in text for choice in CHOICES.get(option, ()))
    assert json.loads(shown(name, "--json")[1]) == facts


def test_options_of_models_have_meanings_too() -> None:
    asked = {option for spec in registry.specs() for option in spec.asks}
    assert asked <= RANGES.keys()
    assert [option for option in asked if not meaning("lora", option)] == []
    assert {row["option"] for row in explain("lora")["options of models that sample"]} == asked
    assert explain("linear")["options of models that sample"] == []


def test_values_are_shown_as_toml_has_them() -> None:
    text = shown("finetune")[1]
    assert re.search(r"^  checkpointing +false +true \| false", text, re.MULTILINE)
    assert re.search(r"^  noise +0\.0 +from 0 to 1", text, re.MULTILINE)  # 0.0 is not false
    assert re.search(r"^  timestep +- +from 0 to 999", text, re.MULTILINE)
    assert '""' in shown("frechet")[1]


def test_a_model_is_shown_as_before() -> None:
    status, text = shown("sd.rooms64-s1")
    assert status == 0 and text.startswith("name ") and "sd.rooms64-s1" in text.splitlines()[0]
    status, text = shown("lroa")
    assert status == 2 and "'lroa'" in text
