"""YAML text becomes documents with lines, or clean errors; whatever the text is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.api.documents import MAX_BYTES, Document, load_documents, parse_documents
from kaito.api.paths import format_path, parse_path


def only(text: str | bytes) -> Document:
    (document,) = parse_documents(text)
    return document


def test_every_field_knows_its_line():
    document = only(
        "# a comment\nkind: X\nmetadata:\n  name: n\n  annotations:\n    kaito.sh/a: b\nlist:\n- a\n- b: 1\n"
    )
    assert document.kind == "X"
    assert document.name == "n"
    lines = {
        "kind": 2,
        "metadata.name": 4,
        "metadata.annotations[kaito.sh/a]": 6,
        "list[0]": 8,
        "list[1].b": 9,
    }
    assert {path: document.line_of(path) for path in lines} == lines


def test_a_missing_field_has_the_line_of_its_nearest_parent():
    document = only("kind: X\ntuning:\n  input:\n    urls: []\n")
    assert document.line_of("tuning.input.image") == 3
    assert document.line_of("tuning.input.urls[3]") == 4
    assert document.line_of("nothing.here") == 1


def test_a_line_of_a_literal_block_is_a_line_of_the_file():
    document = only('data:\n  a: |\n    one\n    two\n  b: "one\\ntwo"\n')
    assert document.line_in_text("data.a", 2) == 4
    assert document.line_in_text("data.b", 2) == 5


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("", None),
        ("2e-4", 0.0002),
        ("010", 10),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        (".5", 0.5),
    ],
)
def test_scalars_are_read_by_yaml_1_2(written: str, value: object):
    assert only(f"a: {written}").value == {"a": value}


def test_aliases_and_merge_keys_are_followed():
    document = only("base: &b {x: 1, y: 2}\nown:\n  <<: *b\n  y: 3\nalso: *b\n")
    assert document.value["own"] == {"x": 1, "y": 3}
    assert document.value["also"] == {"x": 1, "y": 2}


def test_documents_of_a_list_count_one_by_one():
    documents = parse_documents("kind: List\nitems:\n- kind: A\n- kind: B\n---\n# nothing\n---\nkind: C\n")
    assert [(document.kind, document.index) for document in documents] == [("A", 0), ("B", 1), ("C", 2)]
    assert documents[1].line_of("kind") == 4


def test_a_duplicate_key_is_an_error_on_its_line_and_hides_nothing():
    document = only("a: 1\nb: 2\na: 3\n")
    assert document.value == {"a": 1, "b": 2}
    (error,) = document.errors
    assert (error.field, error.line) == ("a", 3)
    assert "line 1" in error.message


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("a:\n\tb: 1", "spaces, not tabs", 2),
        (b"a: 1\nb: \xff\xfe", "not UTF-8", 2),
        ("a: 1\nb: \x00", "U+0000", 2),
        ("a: &x [*x]", "refers to itself", 1),
        ("a: *nowhere", "no anchor", 1),
        ("a: " + "[" * 1000, "nested deeper", 1),
        (BOMB, "aliases are expanded", 6),
        ("? [a]\n: 1", "key must be a word", 1),
        ("a: !!python/object:os.system x", "tag", 1),
        ("a: " + "9" * 5000, "a number of 5,000", 1),
        ("a: {", "not valid YAML", 1),
        ("a: 'b", "not valid YAML", 1),
        ('a: "\\U99999999"', "not valid YAML", 1),
        ("x" * (MAX_BYTES + 1), "larger than 4 MiB", 1),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_damaged_text_gives_one_error_with_its_line(text: str | bytes, words: str, line: int):
    document = only(text)
    (error,) = document.errors
    assert document.value is None
    assert words in error.message
    assert error.line == line
    assert error.field


def test_documents_before_a_syntax_error_are_kept():
    good, bad = parse_documents("kind: A\n---\nkind: [\n")
    assert good.kind == "A"
    assert bad.errors
    assert not good.errors


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert only(b"\xef\xbb\xbfkind: A").kind == "A"


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
@settings(max_examples=300, deadline=None)
def test_no_text_makes_it_raise(text: str | bytes):
    for document in parse_documents(text):
        for error in document.errors:
            assert error.line >= 1
            assert error.field


def test_folders_files_and_standard_input_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "b.yml").write_text("kind: B")
    (tmp_path / "a.yaml").write_text("kind: A")
    (tmp_path / "c.txt").write_text("kind: C")
    (tmp_path / "deeper").mkdir()
    single = tmp_path / "deeper" / "d.json"
    single.write_text('{"kind": "D"}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"kind: E")))
    documents = load_documents([tmp_path, single, "-"])
    assert [document.kind for document in documents] == ["A", "B", "D", "E"]
    assert documents[3].file == "-"


def test_what_cannot_be_read_says_so(tmp_path: Path):
    empty, folder = tmp_path / "empty.yaml", tmp_path / "folder"
    empty.write_text("# nothing\n")
    folder.mkdir()
    messages = [document.errors[0].message for document in load_documents([tmp_path / "missing.yaml", folder, empty])]
    assert "No such file" in messages[0]
    assert "*.yaml" in messages[1]
    assert "no document" in messages[2]


@given(
    st.lists(st.one_of(st.from_regex(r"[A-Za-z][A-Za-z0-9./_-]{0,9}", fullmatch=True), st.integers(0, 99)), min_size=1)
)
def test_a_written_path_reads_as_the_same_path(path: list[str | int]):
    assert parse_path(format_path(tuple(path))) == tuple(path)
