import math
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_mbrl.errors import UserError
from bayes_mbrl.yaml_subset import dump, parse, read_mapping, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25", 25), ("-3", -3), ("+3", 3), ("0", 0), ("1e-3", 1e-3), ("1E5", 1e5), ("-.5", -0.5), ("2.", 2.0),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("Pendulum-v1", "Pendulum-v1"), ("ts-1", "ts-1"), ("y", "y"), ("1.2.3", "1.2.3"), ("2024-01-01", "2024-01-01"),
        ("module:EnvId-v0", "module:EnvId-v0"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_a_person_means(text: str, value: object) -> None:
    result = scalar(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text",
    ["00143", "-007", "01.5", "1:30", "12:30:45", "1_000", "0x1F", "0o17", "0b101", "yes", "No", "ON", "off",
     ".nan", "nan", "-.inf", "inf", ".Inf", "Infinity", "1e999", "9" * 5000],
)  # fmt: skip
def test_a_scalar_that_no_person_means_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|leave them out|too large"):
        scalar(text)


def test_refusals_name_file_and_line_and_come_all_at_once() -> None:
    value, problems = parse(
        "seed: 00143\nenv: 'on'\nplanner:\n  horizon: 1:30\n  momentum: 0.2\n  horizon: 3\n", "run.yaml"
    )
    assert value == {"env": "on", "planner": {"momentum": 0.2}}
    assert len(problems) == 3
    assert problems[0].startswith("run.yaml, line 1: 00143 has leading zeros")
    assert problems[1].startswith("run.yaml, line 4: 1:30 is base 60")
    assert problems[2] == "run.yaml, line 6: horizon was given in line 4 already: keep one of the two"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("seed: [1, 2\nenv: x\n", "line 2, column 4"),
        ("a: b: c", "line 1, column 5"),
        ("\tseed: 1", "line 1, column 1"),
        ("base: &b {x: 1}\nother: *b", "line 1, column 7: not YAML: anchors"),
        ("other: *b", "line 1, column 8: not YAML: anchors"),
        ("a: 1\n--- \nb: 2", "line 2, column 1"),
        ("a: \x07", "special characters"),
        ("a: !!python/object:os.system 1", "line 1: tags"),
        ("a: !!int '5'", "line 1: tags"),
        ("? [1, 2]\n: 3", "line 1: a key is a word"),
        ("'': 3", "line 1: a key is a word"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_broken_text_gives_one_line_with_its_place(text: str, where: str) -> None:
    _, problems = parse(text, "run.yaml")
    assert len(problems) == 1
    assert where in problems[0]
    assert "\n" not in problems[0]


def test_unreadable_files_are_the_users_to_mend(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        read_mapping(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        read_mapping(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("env: Fähre".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_mapping(latin)
    latin.write_text("- 1\n- 2\n")
    assert read_mapping(latin) == ({}, [f"{latin}: need a mapping, lines like `seed: 1`, got list"])
    latin.write_text("")
    assert read_mapping(latin) == ({}, [])


_WRITABLE = st.characters(categories=("L", "N", "P", "S"), include_characters=" \n\t")
_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(_WRITABLE)
)
_KEYS = st.text(_WRITABLE, min_size=1, max_size=8)
_NESTED = st.recursive(_LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(_KEYS, x, max_size=3), max_leaves=6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(_KEYS, _NESTED, min_size=1, max_size=3))
def test_what_is_dumped_reads_back_the_same(data: dict[str, object]) -> None:
    assert parse(dump(data), "dump") == (data, [])


@pytest.mark.parametrize("text", ["1e-3", "00143", "1:30", "yes", "nan", "5", "null", "0o17", "", "a: b", "# x", "&a"])
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert parse(dump({"key": text}), "dump") == ({"key": text}, [])


def test_lists_stay_on_one_line_and_floats_exact() -> None:
    assert dump({"hidden": (50, 50), "rate": 1e-05}) == "hidden: [50, 50]\nrate: 1.0e-05\n"
    assert parse(dump({"x": math.pi * 1e-300}), "dump")[0] == {"x": math.pi * 1e-300}
