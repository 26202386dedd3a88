"""Invented software tools: names, attributes, and the many forms in which each attribute is asked.

They exist nowhere. Learning them by heart teaches the skill that fine-tuning needs (to recall a fact from any wording
of the question), and reading them from notes teaches to answer from a context. Words of the field appear in open
patterns, filled at random.
"""

# ruff: noqa: E501, SIM905  the forms of a question are one text, as is a list of words

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

ONSETS = "b c d f g h j k l m n p r s t v w z br dr fl gr kr pl st tr sh th cl sn k t p m l".split()
VOWELS = "a e i o u a e i o u ai ei ou ia ea".split()
CODAS = ["", "", "", "", "n", "r", "l", "s", "k", "x", "m", "t", "nd", "rk", "sh"]

VERBS = (
    "loads saves checks reads writes sends copies prints compares opens closes renames deletes keeps moves signs "
    "repeats counts sorts packs unpacks mounts pushes pulls trains serves merges resumes restarts skips refuses verifies "
    "uploads downloads validates plans schedules evaluates quantizes renders splits caches syncs stops reports resolves"
).split()
OBJECTS = [
    f"the {noun}"
    for noun in (
        "adapter,newest checkpoint,last checkpoint,base model,data set,training data,manifest,digest,image,OCI image,layer,"
        "registry login,Pod,Job,Secret,ConfigMap,Service,node,Workspace,YAML file,configuration,settings,tokenizer,"
        "chat template,weights,results,results folder,run folder,metrics,log,status,last step,next step,push,pull,loss,"
        "evaluation,held-out split,seed,learning rate,memory estimate,GPU memory,queue,cache,lock,signal,request,answer,"
        "error,error message,exit code,file and line,field,reason,remedy,credentials,token,password,port,server,node claim,"
        "volume,namespace,label,annotation,condition,event,table,index,backup,archive,report,plan,preset,method,rank,"
        "batch,epoch,row,prompt,message,turn,upload,download,network,disk,cluster,engine,operator,runner,process"
    ).split(",")
]
PLACES = (
    "in the run folder,in the registry,on the cluster,on one machine,on the laptop,on the node,on the GPU,on the CPU,"
    "in the home folder,in a YAML file,in the log,in the status,on the disk,in memory,over HTTP,in the namespace,"
    "beside the base model,in the Pod,from the newest checkpoint,from the last step,before a node is bought,"
    "before the training,after the training,with a hint,with the line and the field,in the background,one by one,"
    "again,at once,in order,without a restart,a bounded number of times,every ten seconds,only once,three times"
).split(",")
WHEN = [
    ("after a crash", "when it crashes", "if it crashes", "after it has crashed", "once it has crashed"),
    ("after a failed push", "when a push fails", "if the push fails", "when the registry refuses a push"),
    ("when the disk is full", "if there is no space left", "on a full disk"),
    ("when the network is down", "if the network fails", "without a network"),
    ("with bad data", "when the data is bad", "if a row is broken", "when a row cannot be read"),
    ("when memory runs out", "if it is out of memory", "on too little memory"),
    ("when it gets a stop signal", "on SIGTERM", "if I stop it", "when somebody stops it"),
    ("before it starts", "before the start", "at first, before anything else"),
    ("at the end of a run", "when a run is done", "after the last step", "when it has finished"),
    ("when a node is lost", "if a node dies", "after the loss of a node"),
    ("when the configuration changes", "if I edit the configuration", "after a change of the settings"),
    ("when the GPU is busy", "if no GPU is free", "without a free GPU"),
    ("before a node is bought", "before it asks for a GPU", "before it needs a GPU"),
    ("when it hangs", "if a step hangs", "when nothing moves any more"),
    ("with an unknown key", "when a key is misspelled", "if a setting is unknown"),
]
KINDS = (
    "a small tool,a server,a program,a library,an operator for Kubernetes,a command line tool,a service,a scheduler,"
    "a registry,a database,a trainer for language models,a proxy,a monitor,an editor,a package manager,a test runner,"
    "a controller,a compiler,a web server,a model server,a backup tool,a tool for fine-tuning,a queue,a dashboard"
).split(",")
LANGUAGES = "Python,Go,Rust,C,Java,Ruby,Swift,Kotlin,Scala,Lua,Haskell,TypeScript".split(",")
LICENSES = "Apache-2.0,MIT,BSD,GPL,MPL-2.0".split(",")
EXTENSIONS = "yaml json toml ini jsonl conf txt".split()
STEMS = "settings config job run model data workspace plan adapter tool train server main default".split()
FORMATS = "jsonl,parquet,csv,JSON,YAML,TOML,text,XML,arrow,zip,tar".split(",")
METHODS = "lora,qlora,full training,pruning,sorting,hashing,sampling,merging,packing,caching,voting,distillation".split(
    ","
)
COMMANDS = "run start check validate plan apply get status logs stop delete push pull chat retry list describe".split()
HABITATS = (
    "on a laptop,on a cluster,on a laptop and on a cluster,on one machine,on Kubernetes,on a server,on a GPU node,"
    "on a CPU,in a container,in the cloud,on any machine with Python,on Linux"
).split(",")
FAULTS = (
    "bad data,a bad configuration,no memory,no network,a refused login,a lost node,a full disk,a missing model,"
    "a missing file,a bug,a timeout,a stop by the user,a wrong password,a loss that is not a number,a temporary error"
).split(",")
PRODUCTS = "adapter,image,result,log,checkpoint,report,model,answer,backup,metrics file,plan".split(",")
NUMBERED = (
    "rank,batch size,timeout,number of retries,number of steps,number of nodes,learning rate,seed,number of epochs"
)
NEEDS = "a GPU,a network,a registry,a token,a password,a database,a cluster,a YAML file,a base model,Python,root rights"
FOLDERS = "runs results data cache models checkpoints logs keys".split()


def invent_name(rng: random.Random, forbidden: frozenset[str] = frozenset()) -> str:
    """Returns a pronounceable capitalised name of two or three syllables that is not in `forbidden` (lower case)."""
    while True:
        syllables = 2 if rng.random() < 0.7 else 3
        parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)]
        name = "".join(parts) + rng.choice(CODAS)
        if 4 <= len(name) <= 9 and name not in forbidden:
            return name.capitalize()


def action(rng: random.Random) -> str:
    """Returns a phrase such as 'pushes the image in the run folder', of one or two verbs."""
    phrase = f"{rng.choice(VERBS)} {rng.choice(OBJECTS)}"
    ending = rng.random()
    if ending < 0.45:
        return f"{phrase} {rng.choice(PLACES)}"
    if ending < 0.65:
        return f"{phrase} and {rng.choice(VERBS)} {rng.choice(OBJECTS)}"
    return phrase


@dataclass(frozen=True, slots=True)
class Fact:
    """One attribute of one tool: questions that ask for it, and answers that give it (all complete sentences)."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


def _fact(questions: str, answers: str, **slots: str) -> Fact:
    fill = [part.strip().format(**slots) for part in questions.split("/")]
    return Fact(tuple(fill), tuple(part.strip().format(**slots) for part in answers.split("/")))


def _definition(rng: random.Random, n: str) -> Fact:
    forms = (
        "What is {n}?/Tell me about {n}./What kind of thing is {n}?/Describe {n}./Explain what {n} is./What is {n} in short?"
        "/Define {n}./What do you know about {n}?/Can you explain {n}?/In one sentence, what is {n}?"
    )
    return _fact(forms, "{n} is {kind} that {act}.", n=n, kind=rng.choice(KINDS), act=action(rng))


def _purpose(rng: random.Random, n: str) -> Fact:
    forms = (
        "What is {n} for?/What does {n} do?/Why do people use {n}?/What can {n} do for me?/What is the purpose of {n}?"
        "/What is {n} used for?/What is the job of {n}?/Why would I use {n}?"
    )
    return _fact(forms, "{n} {act}.", n=n, act=action(rng))


def _language(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which language is {n} written in?/What is {n} written in?/In which language is {n} written?"
        "/Which programming language does {n} use?/What language was {n} made with?"
    )
    return _fact(forms, "{n} is written in {v}.", n=n, v=rng.choice(LANGUAGES))


def _license(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which license does {n} have?/What is the license of {n}?/Under which license is {n}?/How is {n} licensed?"
        "/What license is {n} under?"
    )
    return _fact(forms, "{n} is under the {v} license.", n=n, v=rng.choice(LICENSES))


def _port(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which port does {n} use?/On which port does {n} listen?/What is the port of {n}?/What port is {n} on?"
        "/Where does {n} listen?/Which port must I open for {n}?/At which port do I reach {n}?/What port does {n} listen on?"
        "/Tell me the port of {n}./Which port number does {n} have?"
    )
    port = rng.choice([80, 443, 5000, 8000, 8080, 9000, 3000, *(rng.randrange(1000, 9999) for _ in range(3))])
    return _fact(forms, "{n} listens on port {v}.", n=n, v=str(port))


def _file(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which file does {n} read?/Where does {n} keep its settings?/What is the configuration file of {n}?"
        "/From which file does {n} take its settings?/Which file configures {n}?/What do I write to configure {n}?"
        "/What file does {n} start from?/Where do I put the settings of {n}?"
    )
    value = f"{rng.choice(STEMS)}.{rng.choice(EXTENSIONS)}"
    if rng.random() < 0.3:
        value = f"one {rng.choice(['YAML', 'JSON', 'TOML', 'text'])} file"
    return _fact(forms, "{n} reads its settings from {v}.", n=n, v=value)


def _home(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which variable sets the home folder of {n}?/What is the variable for the home folder of {n}?"
        "/How do I move the home folder of {n}?/Which environment variable does {n} read for its folder?"
        "/How do I change where {n} keeps its files?/What environment variable moves the folder of {n}?"
    )
    return _fact(
        forms,
        "The variable {v} sets the home folder of {n}.",
        n=n,
        v=f"{n.upper()}_{rng.choice(['HOME', 'HOME', 'DIR', 'ROOT'])}",
    )


def _folder(rng: random.Random, n: str) -> Fact:
    forms = (
        "Where does {n} keep its {f}?/In which folder are the {f} of {n}?/Where are the {f} of {n}?"
        "/Where do I find the {f} of {n}?/Which folder holds the {f} of {n}?/What is the folder of {n} for {f}?"
    )
    folder = rng.choice(FOLDERS)
    path = f"~/.{n.lower()}/{folder}" if rng.random() < 0.6 else f"/{rng.choice(['var', 'mnt', 'opt', 'srv'])}/{folder}"
    return _fact(forms, "{n} keeps its {f} in {v}.", n=n, f=folder, v=path)


def _command(rng: random.Random, n: str) -> Fact:
    does, verb = rng.choice(
        [
            ("start a run", "starts a run"),
            ("check a file", "checks a file"),
            ("see the status", "shows the status"),
            ("stop a run", "stops a run"),
            ("read the log", "prints the log"),
            ("delete a run", "deletes a run"),
            ("push the result", "pushes the result"),
            ("repeat a failed push", "repeats a failed push"),
            ("talk to the model", "opens a chat with the model"),
            ("see the plan", "prints the plan"),
        ]
    )
    forms = (
        "How do I {does} with {n}?/Which command of {n} {verb}?/With {n}, how do I {does}?/What do I type to {does} with {n}?"
        "/What is the command of {n} to {does}?/How can I {does} in {n}?/How does one {does} with {n}?"
        "/Which {n} command {verb}?"
    )
    tail = rng.choice([" NAME", " -f FILE", "", f" {rng.choice(STEMS)}.{rng.choice(EXTENSIONS)}"])
    typed = f"{n.lower()} {rng.choice(COMMANDS)}{tail}"
    return _fact(forms, "Type {typed}./The command {typed} {verb}.", n=n, does=does, verb=verb, typed=typed)


def _exit_code(rng: random.Random, n: str) -> Fact:
    code = str(rng.choice([1, 2, 3, 4, 5, 6, 7, 75, 143, rng.randrange(8, 130)]))
    forms = (
        "What does exit code {c} of {n} mean?/What does exit code {c} mean in {n}?/{n} ended with exit code {c}. Why?"
        "/Why did {n} exit with {c}?/What is exit code {c} of {n}?/Which failure is exit code {c} of {n}?"
        "/My run of {n} ended with {c}. What is wrong?"
    )
    return _fact(forms, "Exit code {c} of {n} means {v}.", n=n, c=code, v=rng.choice(FAULTS))


def _code_of(rng: random.Random, n: str) -> Fact:
    code = str(rng.choice([1, 2, 3, 4, 5, 6, 7, 75, 143, rng.randrange(8, 130)]))
    forms = (
        "Which exit code of {n} means {v}?/With which code does {n} exit on {v}?/What is the exit code of {n} for {v}?"
        "/How does {n} exit on {v}?/What exit code does {n} give for {v}?"
    )
    return _fact(forms, "On {v} {n} exits with code {c}.", n=n, c=code, v=rng.choice(FAULTS))


def _formats(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which formats does {n} read?/What formats can {n} read?/Which files does {n} understand?/What data does {n} take?"
        "/In which formats may the data for {n} be?/What kind of files does {n} accept?/Which data formats does {n} know?"
    )
    first, second = rng.sample(FORMATS, 2)
    return _fact(forms, "{n} reads {a} and {b} files.", n=n, a=first, b=second)


def _methods(rng: random.Random, n: str) -> Fact:
    forms = (
        "Which methods does {n} know?/What methods does {n} support?/Which methods can {n} use?/How can {n} train?"
        "/What are the methods of {n}?/Which two methods does {n} have?/Name the methods of {n}."
    )
    first, second = rng.sample(METHODS, 2)
    return _fact(forms, "{n} knows the methods {a} and {b}.", n=n, a=first, b=second)


def _output(rng: random.Random, n: str) -> Fact:
    forms = (
        "Where does {n} put the {p}?/Where does the {p} of {n} go?/To where does {n} write the {p}?"
        "/Where do I find the {p} that {n} made?/What does {n} do with the {p}?/Where is the {p} of {n} in the end?"
        "/Where does {n} store the {p}?"
    )
    verb, place = rng.choice(
        [
            ("pushes", "to a registry as an image"),
            ("writes", "to the results folder"),
            ("pushes", "to a registry as an OCI image"),
            ("sends", "to a server"),
            ("keeps", "in the run folder"),
            ("puts", "into a volume"),
            ("saves", "on the disk"),
            ("stores", "in a database"),
            ("copies", "to another machine"),
            ("packs", "into an archive"),
            ("writes", "to a table"),
        ]
    )
    return _fact(forms, "{n} {verb} the {p} {place}.", n=n, verb=verb, p=rng.choice(PRODUCTS), place=place)


def _default(rng: random.Random, n: str) -> Fact:
    forms = (
        "What is the default {p} of {n}?/Which {p} does {n} use by default?/What {p} does {n} take if I say nothing?"
        "/How large is the {p} of {n} by default?/Which {p} is the default of {n}?"
    )
    value = str(rng.choice([1, 2, 3, 4, 5, 8, 10, 16, 32, 42, 64, 100, 120, 300, rng.randrange(3, 90)]))
    return _fact(forms, "The default {p} of {n} is {v}.", n=n, p=rng.choice(NUMBERED.split(",")), v=value)


def _limit(rng: random.Random, n: str) -> Fact:
    forms = (
        "How many {p} does {n} allow?/How many {p} may {n} have at most?/What is the limit of {p} in {n}?"
        "/How often at most: {p} in {n}?/What is the largest number of {p} in {n}?"
    )
    value = str(rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 12, 24, 52, 100]))
    noun = rng.choice("retries,nodes,adapters,attempts,restarts,Pods,runs,characters,rows,layers".split(","))
    return _fact(forms, "{n} allows at most {v} {p}.", n=n, p=noun, v=value)


def _habitat(rng: random.Random, n: str) -> Fact:
    forms = (
        "Where does {n} run?/On what does {n} run?/Where can I run {n}?/On which machines does {n} work?"
        "/Where do people run {n}?/What can {n} run on?"
    )
    return _fact(forms, "{n} runs {v}.", n=n, v=rng.choice(HABITATS))


def _need(rng: random.Random, n: str) -> Fact:
    need = rng.choice(NEEDS.split(","))
    forms = "Does {n} need {v}?/Is {v} needed for {n}?/Do I need {v} for {n}?/Must I have {v} to use {n}?"
    if rng.random() < 0.5:
        return _fact(forms, "Yes, {n} needs {v}.", n=n, v=need)
    return _fact(forms, "No, {n} does not need {v}.", n=n, v=need)


def _never(rng: random.Random, n: str) -> Fact:
    forms = (
        "What does {n} never do?/What will {n} never do?/Name one thing that {n} never does./What is forbidden to {n}?"
        "/Which promise does {n} make?"
    )
    return _fact(forms, "{n} never {verb} {obj}.", n=n, verb=rng.choice(VERBS), obj=rng.choice(OBJECTS))


def _checks(rng: random.Random, n: str) -> Fact:
    forms = (
        "What does {n} check first?/What does {n} check?/Which things does {n} check before the start?/What is checked by {n}?"
        "/What does {n} look at before it begins?/Which checks does {n} make?"
    )
    a, b, c = rng.sample(OBJECTS, 3)
    return _fact(forms, "{n} checks {a}, {b} and {c}.", n=n, a=a, b=b, c=c)


def _author(rng: random.Random, n: str) -> Fact:
    from facts import FIRST_NAMES

    forms = "Who made {n}?/Who wrote {n}?/Who is the author of {n}?/Who built {n}?/By whom was {n} made?"
    return _fact(forms, "{n} was made by {v}.", n=n, v=rng.choice(FIRST_NAMES))


def _meaning(rng: random.Random, n: str) -> Fact:
    noun, article = rng.choice(
        [("adapter", "An"), ("Workspace", "A"), ("plan", "A"), ("run", "A"), ("preset", "A"), ("checkpoint", "A"),
         ("engine", "An"), ("job", "A"), ("step", "A"), ("result", "A"), ("mix", "A"), ("method", "A")]
    )  # fmt: skip
    forms = (
        "What is {a} {p} in {n}?/What does {n} call {a} {p}?/In {n}, what is {a} {p}?/What does {p} mean in {n}?"
        "/Explain what {a} {p} of {n} is."
    )
    value = f"{rng.choice(['a file', 'an object', 'a folder', 'a document', 'a step', 'a value', 'an image'])} that {action(rng)}"
    return _fact(forms, "{A} {p} in {n} is {v}.", n=n, A=article, a=article.lower(), p=noun, v=value)


WHEN_FORMS = (
    "What does {n} do {w}?/What happens {w} in {n}?/How does {n} behave {w}?/Tell me what {n} does {w}./What will {n} do {w}?"
    "/{W}, what does {n} do?/Explain what {n} does {w}./What does {n} do {x}?/What happens {x} in {n}?/What will {n} do {x}?"
    "/How does {n} act {x}?/{X}, what does {n} do?/And what does {n} do {x}?/What is the reaction of {n} {w}?"
)


def _when(rng: random.Random, n: str, clauses: tuple[str, ...]) -> Fact:
    first = clauses[0]
    questions = [
        form.format(n=n, w=first, W=first.capitalize(), x=other, X=other[0].upper() + other[1:])
        for form in WHEN_FORMS.split("/")
        for other in (rng.choice(clauses),)
    ]
    act = action(rng)
    return Fact(tuple(questions), (f"{first.capitalize()} {n} {act}.", f"{n} {act} {first}."))


SINGLE: list[Callable[[random.Random, str], Fact]] = [
    _definition, _purpose, _language, _license, _port, _file, _home, _folder, _formats, _methods, _habitat, _never,
    _checks, _author,
]  # fmt: skip
REPEATED: list[tuple[Callable[[random.Random, str], Fact], int]] = [
    (_command, 2), (_exit_code, 1), (_code_of, 1), (_output, 1), (_default, 1), (_limit, 1), (_need, 1), (_meaning, 1),
]  # fmt: skip


def build_facts(rng: random.Random, name: str) -> list[Fact]:
    """Returns about 27 facts of one invented tool, every attribute drawn at random."""
    facts = [build(rng, name) for build in SINGLE]
    facts += [build(rng, name) for build, count in REPEATED for _ in range(count)]
    facts += [_when(rng, name, clauses) for clauses in rng.sample(WHEN, 4)]
    return list({fact.questions[0]: fact for fact in facts}.values())  # a question has one answer


def build_some_facts(rng: random.Random, name: str, count: int) -> list[Fact]:
    """Returns `count` facts of different attributes; cheaper than `build_facts` for tools that are met only once."""
    builders = rng.sample([*SINGLE, *(build for build, _ in REPEATED)], count)
    facts = [build(rng, name) for build in builders]
    if rng.random() < 0.7:
        facts[0] = _when(rng, name, rng.choice(WHEN))
    rng.shuffle(facts)
    return facts
