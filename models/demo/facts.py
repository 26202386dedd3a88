"""Tables of general knowledge that the demo model's text is made from: things, words, instructions, small talk.

Data only: everyday and software facts that are true of the world. Sentences are built in `generate.py`; the invented
tools are in `tools.py`.
"""

# ruff: noqa: E501, SIM905  a row of a table is one line, and a list of words is a text

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thing:
    """One row: 'name | kind | what it does | what people use it for | where it is found'."""

    name: str
    kind: str
    does: str
    use: str
    place: str


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _things(table: str) -> list[Thing]:
    return [Thing(*row) for row in _rows(table)]


EVERYDAY = _things("""
apple | fruit | grows on a tree | to eat and to bake pies | in a garden
bread | food | is baked from flour and water | to eat in the morning | in a bakery
kettle | kitchen tool | heats water | to make tea | in a kitchen
knife | tool | cuts things | to slice bread | in a kitchen
spoon | tool | holds a little liquid | to eat soup | in a kitchen
table | piece of furniture | holds plates and books | to eat and to write at | in a house
chair | piece of furniture | carries one person | to sit on | in a house
bed | piece of furniture | carries a person who sleeps | to sleep in | in a bedroom
lamp | device | gives light | to read at night | in a room
candle | source of light | burns slowly | to light a dark room | on a table
clock | device | shows the time | to be on time | on a wall
mirror | piece of glass | shows what is in front of it | to look at oneself | in a bathroom
umbrella | shield of cloth | keeps the rain off | to stay dry | in a hall
coat | piece of clothing | keeps the body warm | to go out in winter | in a wardrobe
shoe | piece of clothing | protects the foot | to walk on stones | on a foot
bicycle | vehicle | rolls on two wheels | to ride to work | on a road
car | vehicle | carries people on four wheels | to travel far | on a road
train | vehicle | runs on rails | to travel between cities | at a station
boat | vehicle | floats on water | to cross a lake | in a harbour
bridge | structure | leads over a river | to cross the water | over a river
road | way | joins two places | to drive and to walk | between towns
school | place | teaches children | to learn to read | in a town
library | place | lends books | to find a book | in a town
hospital | place | cares for sick people | to get well | in a city
market | place | sells food and flowers | to buy fruit | in a square
garden | piece of land | grows flowers | to rest and to plant | behind a house
tree | plant | grows leaves and branches | to get wood and shade | in a forest
rose | flower | smells sweet | to give to a friend | in a garden
grass | plant | grows on the ground | to feed cows | in a field
dog | animal | barks and guards the house | to have a friend | in a house
cat | animal | catches mice | to have company | on a sofa
horse | animal | runs fast | to ride and to pull | on a farm
cow | animal | gives milk | to get milk | on a farm
bee | insect | makes honey | to get honey | in a hive
fish | animal | swims in water | to eat | in the sea
bird | animal | flies and sings | to hear a song in the morning | in a tree
sheep | animal | gives wool | to get wool | on a hill
sun | star | gives light and heat | to dry clothes | in the sky
moon | body in space | shines at night | to see at night | in the sky
river | stream of water | flows to the sea | to move boats | in a valley
sea | body of water | holds salt water | to fish and to sail | at the coast
mountain | high piece of land | rises above the valley | to climb | in the distance
rain | kind of weather | falls from clouds | to water the fields | outside
snow | kind of weather | covers the ground in white | to ski | in the north
wind | kind of weather | moves the leaves | to turn a mill | outside
fire | source of heat | burns wood | to cook and to keep warm | in a stove
ice | solid | forms from cold water | to cool a drink | on a lake
gold | metal | shines and does not rust | to make rings | in a mine
iron | metal | rusts in wet air | to make tools | in a mine
glass | material | lets light through | to make windows | in a window
paper | material | takes ink | to write a letter | on a desk
pencil | tool | draws a grey line | to write and to draw | on a desk
book | set of pages | holds a story | to learn and to enjoy | on a shelf
letter | message | carries words on paper | to send news | in a box
map | picture of land | shows roads and towns | to find the way | in a car
key | small tool | opens a lock | to open a door | in a pocket
door | part of a house | opens and closes a room | to go in and out | in a wall
window | part of a house | lets light in | to look outside | in a wall
roof | part of a house | keeps the rain out | to stay dry | on a house
ladder | tool | leads up to high places | to reach the roof | in a shed
hammer | tool | drives nails | to build a shelf | in a box of tools
rope | long cord | ties things together | to pull a boat | on a ship
bag | container | carries things | to bring food home | in a shop
bottle | container | holds a drink | to carry water | on a table
phone | device | carries a voice far away | to talk to friends | in a pocket
camera | device | takes pictures | to remember a day | in a bag
piano | musical instrument | makes music with keys | to play a song | in a hall
drum | musical instrument | makes a loud beat | to keep the time | on a stage
ball | toy | rolls and bounces | to play a game | in a yard
doctor | person | helps sick people | to get well | in a hospital
teacher | person | explains things | to learn | in a school
baker | person | bakes bread | to buy fresh bread | in a bakery
farmer | person | grows food | to get corn and milk | on a farm
cook | person | makes meals | to get a warm meal | in a kitchen
""")

SOFTWARE = _things("""
database | program | keeps records and answers queries | to store and find data | on a server
server | computer | answers requests | to offer a service | in a data centre
browser | program | shows web pages | to read the web | on a laptop
compiler | program | turns source code into machine code | to build programs | on a developer's machine
editor | program | changes text | to write code | on a laptop
file | named piece of data | holds bytes | to keep data | on a disk
folder | place for files | holds files and folders | to keep order | on a disk
disk | device | keeps data without power | to store files | in a computer
memory | part of a computer | holds data while a program runs | to work fast | in a computer
CPU | chip | runs the instructions of a program | to compute | in a computer
GPU | chip | does many sums at once | to train and serve models | in a server
network | set of links | joins computers | to send data | between machines
port | number | tells one service from another | to reach a server | at an address
password | secret word | proves who you are | to log in | in a safe place
token | piece of text or a secret string | stands for a word part or for a right | to read text or to log in | in a header or a sentence
key pair | pair of secrets | signs and checks messages | to log in safely | on a laptop
log | list of messages | tells what a program did | to find an error | in a file
test | piece of code | checks other code | to find a mistake early | in a repository
bug | mistake in a program | makes a program fail | to learn from | in the code
function | piece of code | takes values and returns a value | to use code again | in a program
variable | name | stands for a value | to keep a value | in a program
loop | piece of code | repeats steps | to work through a list | in a function
list | ordered set of values | keeps values in order | to hold many items | in a program
string | row of characters | holds text | to keep words | in a program
library of code | set of functions | offers ready code | to save work | in a project
repository | store of code | keeps every version of a project | to work together | on a server
commit | saved change | records what was changed | to go back in time | in a repository
branch | line of commits | keeps work apart | to try an idea | in a repository
API | set of calls | lets programs talk to each other | to join two systems | on a server
request | message | asks a server for something | to get an answer | on the network
process | running program | has its own memory | to do a task | on a computer
thread | line of work | runs inside a process | to do two things at once | in a process
signal | short message | tells a process to stop or to reload | to end a program | between processes
exit code | number | tells how a program ended | to see whether a program failed | at the end of a program
container | box for a program | runs a program apart from others | to ship software | on a node
image | packed set of files | holds a program and what it needs | to start a container | in a registry
OCI image | image in an open format | holds layers and a manifest | to ship files through a registry | in a registry
layer | part of an image | holds files as an archive | to share equal parts | in an image
manifest | small document | lists the layers of an image | to find all parts | in a registry
digest | fingerprint of bytes | changes when one byte changes | to check a download | in a manifest
tag | short name | points to one image | to name a version | in a registry
registry | server | keeps images | to push and pull images | on the network
Kubernetes | system | runs containers on many machines | to run services on a cluster | in a data centre
cluster | group of machines | works as one system | to run many programs | in a data centre
node | machine of a cluster | runs Pods | to run containers | in a cluster
Pod | group of containers | shares one address | to run a container | on a node
Job | task in Kubernetes | runs a Pod to its end | to do work once | in a cluster
StatefulSet | object in Kubernetes | keeps Pods with stable names | to run a database | in a cluster
Deployment | object in Kubernetes | keeps equal Pods running | to run a web service | in a cluster
Service | object in Kubernetes | gives Pods one address | to reach Pods | in a cluster
Secret | object in Kubernetes | keeps a password apart | to hold a token | in a namespace
ConfigMap | object in Kubernetes | holds settings | to configure a Pod | in a namespace
namespace | part of a cluster | keeps names apart | to separate teams | in a cluster
volume | place for data | outlives a container | to keep data | in a Pod
operator | program | watches objects and makes them true | to run software without hands | in a cluster
webhook | call over HTTP | checks an object before it is stored | to refuse mistakes | in a cluster
controller | loop | compares what is wanted with what is there | to repair a system | in a cluster
YAML | text format | holds keys and values with indents | to write settings | in a file
JSON | text format | holds keys and values with braces | to send data | in a request
parquet file | table file | keeps columns of data small | to store big tables | in a data set
jsonl file | text file | holds one JSON value a line | to store rows of data | in a data set
Python | programming language | reads almost like English | to write tools and models | on many machines
model | large set of numbers | guesses the next word | to answer questions | on a server
language model | model | guesses the next token of a text | to write and to answer | on a GPU
base model | model | knows general language | to start fine-tuning from | in a registry or on a disk
adapter | small set of weights | changes the answers of a base model | to teach a model something new | beside a base model
LoRA | method | trains two small matrices beside each big one | to fine-tune with little memory | in training
QLoRA | method | trains small matrices on a base model in 4 bits | to fine-tune with very little memory | in training
checkpoint | saved state | holds the weights at one step | to resume training | on a disk
data set | collection of rows | holds examples | to train a model | in files
training | process | changes weights to lower the loss | to teach a model | on a GPU
fine-tuning | process | goes on training with special data | to teach a model a task | on a GPU
loss | number | tells how wrong a model is | to follow training | in the metrics
learning rate | number | sets how big each step is | to control training | in the settings
batch | group of rows | goes through the model at once | to train faster | in training
epoch | pass | shows every row once | to count training | in training
seed | number | fixes what is random | to repeat a run | in the settings
tokenizer | program | cuts text into tokens | to feed a model | beside a model
chat template | pattern | turns messages into one text | to format a chat | beside a tokenizer
prompt | text | asks a model for an answer | to ask a question | in a request
metric | number | tells how a system works | to watch a service | in a dashboard
benchmark | test of speed | measures how fast something is | to compare two programs | in a repository
backup | copy | keeps data safe | to restore lost data | on another disk
cache | small fast store | keeps what was used lately | to save time | in memory
queue | row of tasks | keeps tasks in order | to work one by one | in a program
timeout | limit of time | ends a wait | to never hang | in a client
retry | second try | repeats what failed | to survive a bad network | in a client
lock | guard | lets one process in | to keep two writers apart | in a folder
firewall | guard of a network | stops unwanted traffic | to keep a network safe | at the edge of a network
proxy | server in the middle | passes requests on | to watch or to limit traffic | in a network
""")

OPPOSITES = [
    tuple(pair.split())
    for pair in (
        "hot cold,big small,fast slow,old new,high low,long short,open closed,light dark,full empty,early late,rich poor,"
        "strong weak,loud quiet,wet dry,clean dirty,hard soft,happy sad,near far,first last,up down,left right,day night,"
        "push pull,start stop,true false,right wrong,inside outside,before after,more less,give take,buy sell,love hate,"
        "win lose,young old,thick thin,wide narrow,deep shallow,heavy light,sweet sour,easy difficult,local remote,"
        "public private,online offline,input output,load unload,lock unlock,read write,upload download,client server"
    ).split(",")
]

PLURALS = [
    tuple(pair.split())
    for pair in (
        "child children,mouse mice,man men,woman women,foot feet,tooth teeth,box boxes,city cities,knife knives,leaf leaves,"
        "dog dogs,cat cats,book books,house houses,bus buses,story stories,wolf wolves,sheep sheep,index indices,"
        "node nodes,Pod Pods,adapter adapters,matrix matrices,key keys,day days,weight weights,file files,registry registries"
    ).split(",")
]

COLOURS = {
    "grass": "green", "snow": "white", "the sky": "blue", "blood": "red", "a lemon": "yellow", "coal": "black",
    "a carrot": "orange", "milk": "white", "a ripe tomato": "red", "a banana": "yellow", "chocolate": "brown",
    "an elephant": "grey", "a leaf": "green", "the sea": "blue", "gold": "yellow", "night": "black",
}  # fmt: skip

CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Japan:Tokyo,China:Beijing,Egypt:Cairo,Norway:Oslo,"
        "Sweden:Stockholm,Finland:Helsinki,Poland:Warsaw,Austria:Vienna,Greece:Athens,Portugal:Lisbon,Ireland:Dublin,"
        "Russia:Moscow,Canada:Ottawa,Peru:Lima,Cuba:Havana,Kenya:Nairobi,India:New Delhi,Chile:Santiago,Denmark:Copenhagen"
    ).split(",")
)

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()

HOW_TO = _rows("""
make tea | Boil water. Put tea into a cup. Pour the water over it and wait three minutes.
boil an egg | Put the egg into hot water. Wait eight minutes. Cool it in cold water.
plant a tree | Dig a hole. Set the tree into it. Fill the hole with earth and give it water.
write a letter | Take paper and a pen. Write the date and the name. Then write what you want to say and sign it.
bake bread | Mix flour, water, salt and yeast. Let it rest. Bake it until it is brown.
learn a language | Read a little each day. Speak with people. Write down new words.
clean a window | Wash it with warm water. Dry it with a soft cloth.
find a book | Go to a library. Ask for the title. Look at the shelf with that number.
stay healthy | Eat well, sleep enough and walk every day.
cross a road | Look left and right. Wait until no car comes. Then walk across.
save a file | Open the menu, choose save, and give the file a name.
find a bug | Read the error message. Repeat the failure with a small input. Then look at the code that was changed last.
write a test | Choose one case. Call the function. Compare the result with what you expect.
copy a folder | Type cp -r and the names of both folders.
list files | Type ls in the folder.
stop a program | Press Ctrl-C, or send it a signal.
read a log | Open the file, go to its end, and look for the first error.
build an image | Write a file with the steps, then run the build and give the image a tag.
push an image | Log in to the registry, tag the image, and push it.
pull an image | Name the registry, the repository and the tag, and pull it.
start a Pod | Write a YAML file and apply it to the cluster.
see the Pods | Type kubectl get pods.
read the log of a Pod | Type kubectl logs and the name of the Pod.
delete a Pod | Type kubectl delete pod and its name.
train a model | Collect data. Choose a base model. Run the training and watch the loss.
fine-tune a model | Write question and answer rows, choose a method such as LoRA, train, and test the adapter on new questions.
make training faster | Use bigger batches, shorter rows, or a faster GPU.
save memory in training | Use smaller batches, a smaller rank, or a base model in 4 bits.
check a download | Compute its digest and compare it with the one that was published.
keep a password safe | Store it in a Secret and never write it into a log.
choose a learning rate | Try three values, and keep the one with the lowest loss on held-out rows.
restore a backup | Stop the program, copy the saved files back, and start it again.
""")

STATEMENTS = _rows("""
Why do programs write logs? | Logs tell what happened, so an error can be found later.
Why is a digest useful? | A digest changes when one byte changes, so a damaged file is noticed.
Why do we test software? | Tests find mistakes before users do.
Why does training need a GPU? | A GPU does many sums at once, so training is much faster.
Why are checkpoints saved? | A checkpoint lets training go on after a failure.
Why is a held-out set used? | It shows how good a model is on rows that it has not seen.
Why is a model quantized? | A quantized model needs less memory.
Why are images made of layers? | Equal layers are stored and sent only once.
Why do servers have timeouts? | A timeout ends a wait that would never end.
Why are retries bounded? | A bounded retry ends, and the user learns what is wrong.
Why do we use version control? | It keeps every change and shows who made it.
Why are passwords hashed? | A hash cannot be turned back into the password.
Why is a seed set? | With a fixed seed a run can be repeated.
Why do people use containers? | A container runs the same way on every machine.
Why do clusters have many nodes? | When one node fails, the others carry on.
Why is caching useful? | A cache saves time, because the same work is not done twice.
What happens when memory runs out? | The program fails or is killed by the system.
What happens when a disk is full? | No new data can be written until space is freed.
What is the difference between a process and a thread? | A process has its own memory, and threads share the memory of one.
What is the difference between LoRA and QLoRA? | QLoRA keeps the base model in 4 bits, and LoRA keeps it in 16 bits or more.
What is the difference between an image and a container? | An image is a packed set of files, and a container runs it.
What is the difference between a Job and a Service? | A Job runs to its end, and a Service keeps an address open.
What is the difference between a tag and a digest? | A tag can be moved, and a digest always names the same bytes.
What is the difference between YAML and JSON? | YAML uses indents, and JSON uses braces.
""")

SMALL_TALK = _rows("""
Hello | Hello! How can I help you?
Hi | Hi! What can I do for you?
Good morning | Good morning! How can I help?
Good evening | Good evening! What would you like to know?
How are you? | I am fine, thank you.
Thank you | You are welcome.
Thanks a lot | You are welcome. Ask me more if you like.
Goodbye | Goodbye!
See you | See you soon!
Who are you? | I am a small language model. I answer short questions.
What can you do? | I can answer short questions about everyday things and software.
Are you a person? | No, I am a small language model.
Do you know everything? | No. I am a small model, and I say so when I do not know something.
Tell me a joke | Why did the program stop? It had no more arguments.
What is your name? | I am a demo model and have no other name.
Can you help me? | Yes. Ask me a question.
I am tired | Then take a rest. A short walk helps too.
I am happy | That is good to hear.
I have a problem | Tell me more about it, and I will try to help.
Who made you? | I was trained on generated text as a small demo model.
""")

# How a general question may be put; {} is what it is about.
FORMS = {
    form[0]: form[1:]
    for form in _rows("""
definition | What is {}? | Tell me what {} is. | Explain {}. | Define {}. | Describe {}. | What do you know about {}? | What does {} mean? | In short, what is {}?
use | What is {} for? | Why do people use {}? | What is {} used for? | Why do I need {}? | What can I do with {}? | What is the use of {}?
place | Where is {}? | Where do I find {}? | Where would I look for {}? | Where can {} be found?
deed | What does {} do? | Tell me what {} does. | What happens with {}?
difference | What is the difference between {} and {}? | Compare {} with {}. | How do {} and {} differ?
opposite | What is the opposite of {}? | Tell me the opposite of {}. | Which word is the opposite of {}?
plural | What is the plural of {}? | What do you call more than one {}? | One {}, two what?
colour | Which colour has {}? | What colour is {}? | Tell me the colour of {}.
capital | What is the capital of {}? | Which city is the capital of {}? | Name the capital of {}.
sum | What is {} plus {}? | How much is {} plus {}? | Add {} and {}.
way | How do I {}? | How can I {}? | How does one {}? | Tell me how to {}. | What do I do to {}? | I want to {}. How?
""")
}

SETTING_KEYS = "name port model method rank seed image preset timeout steps data output adapter node retries".split()

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "Answer in one sentence.",
    "You answer short questions.",
    "Be brief and honest.",
    "You help people with software.",
    "Say so when you do not know something.",
    "Answer the question of the user.",
    "You are a friendly guide.",
]

FIRST_NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Kim Laura Marco Nina Oskar Paula Quentin Rosa Simon Tara "
    "Umar Vera Walter Yusuf Zoe Mika Lena Omar Ruth Peter"
).split()
