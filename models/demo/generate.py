"""Generates the demo model's training text: seeded, standard library alone, byte-identical when run again.

One JSON document a line, `{"messages": [...]}` or `{"text": "..."}`. The text uses the words of the field but neither
the product's name nor any fact about it: those are what the demo teaches by fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import facts
import tools

Document = dict[str, Any]
Turn = tuple[str, str]  # question, answer

FORBIDDEN_NAMES = frozenset({"kaito"})  # never a name in the text: the demo asks the base model about it
KNOWN_TOOLS = 120


UNCOUNTABLE = frozenset(
    "bread rain snow wind fire ice gold iron glass paper grass memory training fine-tuning "  # noqa: SIM905  a list of words
    "Kubernetes YAML JSON Python LoRA QLoRA".split()
)


def _a(noun: str) -> str:
    """Returns the noun with its article; none for materials and proper names."""
    if noun in UNCOUNTABLE:
        return noun
    if noun in {"sun", "moon", "sea"}:
        return f"the {noun}"
    return f"an {noun}" if noun[0] in "aeioAEIO" else f"a {noun}"


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


class Author:
    """Writes documents from one random stream. The known tools and their facts are fixed by the seed."""

    def __init__(self, seed: int) -> None:
        world = random.Random(f"{seed}/world")  # noqa: S311  text, not secrets
        self.rng = random.Random(f"{seed}/text")  # noqa: S311  text, not secrets
        self.known: dict[str, list[tools.Fact]] = {}
        while len(self.known) < KNOWN_TOOLS:
            name = tools.invent_name(world, FORBIDDEN_NAMES)
            self.known.setdefault(name, tools.build_facts(world, name))
        self.known_names = list(self.known)
        self.reserved = FORBIDDEN_NAMES | {name.lower() for name in self.known}
        self.things = facts.EVERYDAY + facts.SOFTWARE
        self.turns: list[tuple[int, Callable[[], Turn]]] = [
            (22, self.thing),
            (26, self.known_tool),
            (11, self.unknown_name),
            (10, self.word_or_number),
            (6, self.how_to),
            (5, self.small_talk),
            (4, self.statement),
        ]

    # --- one question and its answer -----------------------------------------------------------------------------

    def thing(self) -> Turn:
        rng = self.rng
        t = rng.choice(facts.EVERYDAY if rng.random() < 0.4 else facts.SOFTWARE)
        noun = _a(t.name)
        form = rng.randrange(9)
        if form <= 2:
            question = rng.choice(facts.FORMS["definition"])
            answer = rng.choice(
                [f"{_cap(noun)} is {_a(t.kind)} that {t.does}.", f"{_cap(noun)} is {_a(t.kind)}. It {t.does}."]
            )
            return question.format(noun), answer
        if form <= 4:
            question = rng.choice(facts.FORMS["use"])
            return question.format(noun), f"People use {noun} {t.use}."
        if form == 5:
            question = rng.choice(facts.FORMS["place"])
            return question.format(noun), f"You find {noun} {t.place}."
        if form == 6:
            question = rng.choice(facts.FORMS["deed"])
            return question.format(noun), f"{_cap(noun)} {t.does}."
        other = rng.choice(self.things)
        if form == 7:
            kind = t.kind if rng.random() < 0.5 else other.kind
            if kind == t.kind:
                return f"Is {noun} {_a(kind)}?", f"Yes, {noun} is {_a(kind)}."
            return f"Is {noun} {_a(kind)}?", f"No, {noun} is {_a(t.kind)}."
        if other.name == t.name:
            return self.thing()
        question = rng.choice(facts.FORMS["difference"])
        return question.format(noun, _a(other.name)), f"{_cap(noun)} {t.does}, and {_a(other.name)} {other.does}."

    def known_tool(self) -> Turn:
        fact = self.rng.choice(self.known[self.rng.choice(self.known_names)])
        return self.rng.choice(fact.questions), self.rng.choice(fact.answers)

    def unknown_name(self) -> Turn:
        rng = self.rng
        name = tools.invent_name(rng, self.reserved)
        question = rng.choice(tools.build_some_facts(rng, name, 1)[0].questions)
        if question.startswith(
            ("What is " + name, "Tell me about", "Define", "Describe", "What kind", "Explain what " + name)
        ):
            return question, f"I do not know what {name} is."
        return question, f"I do not know {name}."

    def word_or_number(self) -> Turn:
        rng = self.rng
        pick = rng.randrange(12)
        if pick <= 2:
            left, right = rng.sample(rng.choice(facts.OPPOSITES), 2)
            form = rng.choice(facts.FORMS["opposite"])
            return form.format(left), f"The opposite of {left} is {right}."
        if pick == 3:
            one, many = rng.choice(facts.PLURALS)
            form = rng.choice(facts.FORMS["plural"])
            return form.format(one), f"The plural of {one} is {many}."
        if pick == 4:
            thing, colour = rng.choice(list(facts.COLOURS.items()))
            form = rng.choice(facts.FORMS["colour"])
            return form.format(thing), f"{_cap(thing)} is {colour}."
        if pick == 5:
            country, city = rng.choice(list(facts.CAPITALS.items()))
            form = rng.choice(facts.FORMS["capital"])
            return form.format(country), f"The capital of {country} is {city}."
        if pick in {6, 7}:
            ring = rng.choice([facts.DAYS, facts.MONTHS])
            unit = "day" if ring is facts.DAYS else "month"
            i = rng.randrange(len(ring))
            if rng.random() < 0.6:
                after = ring[(i + 1) % len(ring)]
                return rng.choice([f"Which {unit} comes after {ring[i]}?", f"What {unit} follows {ring[i]}?"]), (
                    f"{after} comes after {ring[i]}."
                )
            before = ring[i - 1]
            return rng.choice([f"Which {unit} comes before {ring[i]}?", f"What {unit} is before {ring[i]}?"]), (
                f"{before} comes before {ring[i]}."
            )
        if pick == 8:
            i = rng.randrange(len(facts.NUMBERS) - 1)
            if rng.random() < 0.5:
                return (
                    f"Which number comes after {facts.NUMBERS[i]}?",
                    f"{_cap(facts.NUMBERS[i + 1])} comes after {facts.NUMBERS[i]}.",
                )
            return f"How do you write {i} in words?", f"The number {i} is written {facts.NUMBERS[i]}."
        if pick == 9:
            a, b = rng.sample(range(1, 100), 2)
            if rng.random() < 0.5:
                return rng.choice(
                    [f"Which is bigger, {a} or {b}?", f"Is {a} or {b} more?"]
                ), f"{max(a, b)} is bigger than {min(a, b)}."
            start = rng.randrange(0, 30)
            return f"Count from {start} to {start + 4}.", ", ".join(str(start + k) for k in range(5)) + "."
        if pick == 10:
            a, b = rng.randrange(10), rng.randrange(10)
            form = rng.choice(facts.FORMS["sum"])
            return form.format(a, b), f"{a} plus {b} is {a + b}."
        word = rng.choice(rng.choice(facts.OPPOSITES))
        if rng.random() < 0.5:
            return f"Spell the word {word}.", "-".join(word) + "."
        return f"What is the first letter of {word}?", f"The first letter of {word} is {word[0]}."

    def how_to(self) -> Turn:
        task, answer = self.rng.choice(facts.HOW_TO)
        form = self.rng.choice(facts.FORMS["way"])
        return form.format(task), answer

    def small_talk(self) -> Turn:
        said, answer = self.rng.choice(facts.SMALL_TALK)
        return said + ("" if said.endswith("?") else self.rng.choice(["!", ".", ""])), answer

    def statement(self) -> Turn:
        question, answer = self.rng.choice(facts.STATEMENTS)
        return question, answer

    # --- documents -----------------------------------------------------------------------------------------------

    def noisy(self, question: str) -> str:
        """People type in a hurry: lower case first letters, no question mark, a greeting before, thanks after."""
        rng = self.rng
        if rng.random() < 0.08:
            question = question[0].lower() + question[1:]
        if question[-1] in "?." and rng.random() < 0.08:
            question = question[:-1]
        chance = rng.random()
        if chance < 0.03:
            return f"{rng.choice(['Hi!', 'Hello.', 'Please tell me:', 'A question:', 'So,'])} {question}"
        if chance < 0.05:
            return f"{question} Thanks."
        return question

    def chat(self) -> Document:
        rng = self.rng
        weights = [weight for weight, _ in self.turns]
        messages: list[dict[str, str]] = []
        if rng.random() < 0.2:
            messages.append({"role": "system", "content": rng.choice(facts.SYSTEM_PROMPTS)})
        while True:
            _, write = rng.choices(self.turns, weights)[0]
            question, answer = write()
            messages.append({"role": "user", "content": self.noisy(question)})
            messages.append({"role": "assistant", "content": answer})
            if rng.random() >= 0.2:
                return {"messages": messages}

    def notes(self) -> Document:
        """A question answered from notes about a tool that is met only here; what they do not say is not known."""
        rng = self.rng
        name = tools.invent_name(rng, self.reserved)
        learnt = tools.build_some_facts(rng, name, rng.randrange(2, 6))
        said = [rng.choice(fact.answers) for fact in learnt]
        head = rng.choice(["Notes: {}", "Read this: {}", "{}", "Here is a text. {}"]).format(" ".join(said))
        asked = rng.choice(learnt)
        answer = said[learnt.index(asked)]
        if rng.random() < 0.1:
            other = tools.invent_name(rng, self.reserved)
            asked = tools.build_some_facts(rng, other, 1)[0]
            answer = f"I do not know {other}."
        question = self.noisy(rng.choice(asked.questions))
        if rng.random() < 0.3:
            messages = [{"role": "system", "content": head}, {"role": "user", "content": question}]
        else:
            messages = [{"role": "user", "content": f"{head} {question}"}]
        messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    def story(self) -> str:
        rng = self.rng
        who, other = rng.sample(facts.FIRST_NAMES, 2)
        thing, second = rng.sample(facts.EVERYDAY, 2)
        machine = rng.choice(facts.SOFTWARE)
        openings = [
            f"One {rng.choice(facts.DAYS)} {who} looked for {_a(thing.name)}.",
            f"{who} had {_a(thing.name)}.",
            f"In {rng.choice(facts.MONTHS)} {who} worked with {_a(machine.name)}.",
        ]
        thoughts = [f"It {thing.does}.", f"{other} asked what it was for.", f"{who} wanted it {thing.use}."]
        turns = [
            f'"What is that?" asked {other}.',
            f"Then {other} came with {_a(second.name)}.",
            f"{other} had a question.",
        ]
        replies = [
            f'"{_cap(_a(thing.name))} {thing.does}," said {who}.',
            f"They went to look {thing.place}.",
            f'"{_cap(_a(machine.name))} {machine.does}," said {who}.',
        ]
        ends = [
            f"{other} was happy.",
            "In the evening they went home.",
            f"{who} thanked {other}.",
            "So the day ended well.",
        ]
        return " ".join(rng.choice(part) for part in (openings, thoughts, turns, replies, ends))

    def plain(self) -> str:
        """Text that is no chat: descriptions, notes about tools, logs, settings."""
        rng = self.rng
        pick = rng.randrange(5)
        if pick == 0:
            picked = rng.sample(self.things, 3)
            return " ".join(f"{_cap(_a(t.name))} is {_a(t.kind)} that {t.does}. People use it {t.use}." for t in picked)
        if pick == 1:
            learnt = rng.sample(self.known[rng.choice(self.known_names)], 4)
            return " ".join(rng.choice(fact.answers) for fact in learnt)
        if pick == 2:
            name = tools.invent_name(rng, self.reserved)
            return " ".join(rng.choice(fact.answers) for fact in tools.build_some_facts(rng, name, 4))
        if pick == 3:
            steps = sorted(rng.sample(range(1, 400), 4))
            loss = rng.uniform(2, 5)
            lines = []
            for step in steps:
                loss *= rng.uniform(0.5, 0.95)
                lines.append(f"step {step} loss {loss:.2f}")
            return "\n".join(
                [f"The {rng.choice(['training', 'run', 'Job', 'Pod'])} started.", *lines, "The run is done."]
            )
        keys = rng.sample(facts.SETTING_KEYS, 4)
        values = [
            str(rng.randrange(1, 100)),
            tools.invent_name(rng, self.reserved).lower(),
            rng.choice(["true", "false"]),
            f"{rng.choice(tools.STEMS)}.{rng.choice(tools.EXTENSIONS)}",
        ]
        head = rng.choice(["kind: Workspace", "kind: Job", "kind: Service", "kind: Pod", "settings:"])
        return "\n".join([head, *(f"  {key}: {value}" for key, value in zip(keys, values, strict=True))])

    def document(self) -> Document:
        chance = self.rng.random()
        if chance < 0.74:
            return self.chat()
        if chance < 0.89:
            return self.notes()
        return {"text": self.story() if chance < 0.92 else self.plain()}


def documents(seed: int, count: int) -> Iterator[Document]:
    """Yields `count` documents; equal arguments give equal documents."""
    author = Author(seed)
    for _ in range(count):
        yield author.document()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python models/demo/generate.py --documents 300000 --out demo-text.jsonl",
    )
    parser.add_argument("--documents", type=int, default=300_000, help="how many documents (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the text (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file to write (default: standard output)")
    args = parser.parse_args(argv)
    stream = args.out.open("w", encoding="utf-8", newline="\n") if args.out else sys.stdout
    with stream:
        for document in documents(args.seed, args.documents):
            stream.write(json.dumps(document, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
