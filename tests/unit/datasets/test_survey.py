"""All rows are read and checked, whatever they are; lengths of large data come from a seeded sample."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kaito.datasets.files import scan_folder
from kaito.datasets.render import Renderer
from kaito.datasets.report import build_details, build_result, describe, find_failure
from kaito.datasets.survey import SAMPLE_ROWS, Measured, Sample, Survey, choose_sample, survey_rows
from tests.unit.datasets.models import build_model

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = build_model(tmp_path_factory.mktemp("model") / "m", eos="<|end|>", chat_template=TEMPLATE)
    return Renderer.load(folder, max_length=40)


def chat(question: str, answer: str = "an answer") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(folder: Path, **files: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def survey(folder: Path, renderer: Renderer | None, sample: Sample | None = None) -> Survey:
    files = scan_folder(folder).files
    columns = renderer.columns if renderer is not None else None
    return survey_rows(files, renderer, columns, sample or Sample(seed=1))


def test_rows_are_counted_by_file_and_by_format(renderer: Renderer, tmp_path: Path) -> None:
    pair = {"prompt": "p", "completion": " c"}
    folder = write(tmp_path / "data", a=[chat("1"), pair, pair], b=[chat("2"), "{"])
    found = survey(folder, renderer)
    assert found.files == {"a.jsonl": 3, "b.jsonl": 2}
    assert dict(found.formats) == {"messages": 2, "prompt-completion": 2}
    assert (found.rows, found.bad, found.good) == (5, 1, 4)


def test_rows_that_say_the_same_are_repeats_whatever_else_they_hold(renderer: Renderer, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", a=[chat("1") | {"id": 1}, chat("2")], b=[{"id": 9} | chat("1"), chat("3")])
    details = build_details(survey(folder, renderer))
    assert details["duplicates"] == 1
    assert details["first_duplicates"] == ["b.jsonl:1 repeats a.jsonl:1"]


def test_all_files_are_looked_at_though_one_is_damaged(renderer: Renderer, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", b=[chat("1"), {"text": 1}])
    (folder / "a.json").write_text(json.dumps([chat("0")])[:-1] + ",\n")
    found = survey(folder, renderer)
    assert len(found.damaged) == 1
    assert found.damaged[0].message.startswith("a.json:")
    assert [str(problem).partition(": ")[0] for problem in found.first] == ["b.jsonl:2"]
    failure = find_failure(found)
    assert failure is not None
    assert failure.message == found.damaged[0].message


def test_rows_are_checked_to_the_end_though_no_model_could_render_them(tmp_path: Path) -> None:
    bare = Renderer.load(build_model(tmp_path / "m"))
    folder = write(tmp_path / "data", a=[chat("1"), {"text": 1}, chat("2")])
    found = survey(folder, bare)
    assert found.unrenderable is not None
    assert (found.rows, found.bad) == (3, 1)
    failure = find_failure(found)
    assert failure is not None
    assert failure.reason == "ChatTemplateMissing"


# --- a sample -------------------------------------------------------------------------------------------------------


def test_up_to_a_size_everything_is_measured_and_beyond_it_a_sample(tmp_path: Path) -> None:
    files = scan_folder(write(tmp_path / "data", a=[chat("1")] * 100)).files
    size = files[0].bytes
    assert choose_sample(files, 100, 1, sampled_bytes=size).is_everything
    assert choose_sample(files, 10 * SAMPLE_ROWS, 1, sampled_bytes=size - 1) == Sample(1, 0.1)
    assert choose_sample(files, 100, 1, sampled_bytes=size - 1).is_everything


def rows_of_all_lengths(count: int) -> list[dict[str, Any]]:
    chance = random.Random(7)
    return [chat("word " * chance.randint(1, 20) + str(number)) for number in range(count)]


def test_a_sample_depends_on_its_seed_alone(renderer: Renderer, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", a=rows_of_all_lengths(600))
    one, again, other = (survey(folder, renderer, Sample(seed, 0.2)) for seed in (1, 1, 2))
    assert build_result(one) | build_details(one) == build_result(again) | build_details(again)
    assert one.measured != other.measured
    assert 80 < one.measured.rows < 160


def test_numbers_of_a_sample_are_scaled_to_all_rows_and_said_to_be_about(renderer: Renderer, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", a=rows_of_all_lengths(1000))
    whole, sampled = survey(folder, renderer), survey(folder, renderer, Sample(1, 0.3))
    exact, estimate = build_result(whole), build_result(sampled)
    assert exact["truncated"] > 100
    assert abs(estimate["truncated"] - exact["truncated"]) < 0.2 * exact["truncated"]
    assert abs(estimate["tokens"]["p50"] - exact["tokens"]["p50"]) <= 2
    assert (estimate["rows"], estimate["bad"]) == (1000, 0)
    log = "\n".join(describe(sampled))
    assert f"from a sample of {sampled.measured.rows:,} rows (seed 1)" in log
    assert "which are cut: about " in log
    assert "about" not in "\n".join(describe(whole))
    assert build_details(sampled)["sample"] == {"rows": sampled.measured.rows, "seed": 1}
    assert build_details(whole)["sample"] is None


def test_every_row_is_checked_though_few_are_measured(renderer: Renderer, tmp_path: Path) -> None:
    rows: list[Any] = [chat(str(number)) for number in range(300)]
    rows[250] = {"text": 3}
    rows[270] = "{"
    rows[280] = {"messages": [{"role": "user", "content": "no answer"}]}
    found = survey(write(tmp_path / "data", a=rows), renderer, Sample(1, 0.01))
    assert [problem.line for problem in found.first] == [251, 271, 281]
    assert sum(found.formats.values()) == 297


def test_a_row_that_the_chat_template_refuses_is_found_outside_the_sample(tmp_path: Path) -> None:
    strict = TEMPLATE.replace(
        "{% for m", "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m", 1
    )
    renderer = Renderer.load(build_model(tmp_path / "m", eos="<|end|>", chat_template=strict))
    with_system = {"messages": [{"role": "system", "content": "s"}, *chat("q")["messages"]]}
    rows = [chat(str(number)) for number in range(200)] + [with_system] + [chat("last")]
    found = survey(write(tmp_path / "data", a=rows), renderer, Sample(1, 0.001))
    assert found.measured.rows < 10
    assert [problem.line for problem in found.first] == [201]


def test_the_longest_row_is_measured_though_it_is_not_in_the_sample(renderer: Renderer, tmp_path: Path) -> None:
    rows = [chat("word " * 5 + str(number)) for number in range(500)]
    rows[321] = chat("word " * 400)
    folder = write(tmp_path / "data", a=rows)
    exact, sampled = survey(folder, renderer), survey(folder, renderer, Sample(1, 0.01))
    assert sampled.measured.rows < 30
    assert sampled.measured.longest == exact.measured.longest > 300


def test_percentiles_are_those_of_rows() -> None:
    measured = Measured(rows=100)
    measured.lengths.update(range(1, 101))
    assert [measured.percentile(percent) for percent in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    one = Measured(rows=1)
    one.lengths.update([7])
    assert [one.percentile(percent) for percent in (50, 95, 100)] == [7, 7, 7]
    assert Measured().percentile(50) == 0


def test_rows_too_long_are_found_outside_the_sample_where_they_are_an_error(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "m", eos="<|end|>", chat_template=TEMPLATE)
    longer_in_bytes = chat("registry holds images " * 12)  # of words that the tokenizer knows
    rows = [longer_in_bytes, *(chat(str(number)) for number in range(300)), chat("q", "鬱" * 30), chat("last")]
    data = write(tmp_path / "data", a=rows)
    strict = Renderer.load(folder, max_length=80, long_rows="error")
    exact, sampled = survey(data, strict), survey(data, strict, Sample(1, 0.001))
    assert [problem.line for problem in exact.first] == [302]
    assert [problem.line for problem in sampled.first] == [302]


def test_a_few_rows_of_a_sample_do_not_refuse_all_data(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "m", eos="<|end|>", chat_template=TEMPLATE)
    rows = [chat("word " * (200 if number % 2 else 1) + str(number)) for number in range(200)]
    data = write(tmp_path / "data", a=rows)
    for seed in range(40):
        found = survey(data, Renderer.load(folder, max_length=40), Sample(seed, 0.01))
        assert find_failure(found) is None
        if 0 < found.measured.rows == found.measured.untrained:
            assert any("teach nothing: about" in line for line in describe(found))
            return
    raise AssertionError("no seed drew long rows alone")


def test_a_label_on_the_first_token_alone_is_nothing_to_learn(tmp_path: Path) -> None:
    renderer = Renderer.load(build_model(tmp_path / "m", bos_by_post_processor=False), max_length=1)
    found = survey(write(tmp_path / "data", a=[{"text": "hello world"}]), renderer)
    assert found.measured.untrained == 1
    failure = find_failure(found)
    assert failure is not None
    assert "nothing would be learnt" in failure.message
