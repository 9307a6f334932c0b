"""Text the product writes itself: what the tiny tokenizer learns from, and long prompts.

A harbour's log, told from a seed. The same seed gives the same text on every machine and Python:
only ``random.Random.random()`` is drawn from, whose sequence Python guarantees.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SHIPS = (
    "Kestrel Marigold Tern Halcyon Juniper Osprey Bramble Cormorant Saffron Linnet Pilgrim "
    "Thistle Meridian Lantern Petrel Hawthorn Solace Vesper Wayfarer Cinnabar Nightjar Rowan "
    "Sandpiper Endeavour Larkspur Mistral Gannet Foxglove Perseverance Quicksilver"
).split()
KINDS = (
    "schooner barge trawler ferry tanker freighter tug ketch collier dredger lighter cutter"
).split()
BERTHS = (
    "the north quay|the south quay|the coal pier|the grain pier|the fish market|the dry dock|"
    "the customs wharf|the old mole|the ferry stage|the breakwater|the timber basin|the salt sheds"
).split("|")
CARGOES = (
    "oranges timber wool coal grain salt herring copper tea paper glass bricks cotton olives rope "
    "slate barley machinery coffee linen cement rubber sugar apples cork granite flour pepper"
).split()
UNITS = "crates|tons|barrels|sacks|bales|pallets|casks|bundles".split("|")
WEATHER = (
    "wind light from the west|wind fresh from the north|calm and clear|fog over the outer channel|"
    "steady rain|a heavy swell at the bar|showers towards evening|haze, then sun|hail at noon|"
    "wind backing to the south|thunder inland|sleet before dawn|a low grey sky|stars very bright"
).split("|")
PEOPLE = (
    "the pilot|the harbour master|the mate|the cook|the customs officer|the night watch|the agent|"
    "the diver|the lighthouse keeper|the crane driver|the surveyor|the oldest boatman"
).split("|")
DEEDS = (
    "asked for fresh water|signed the manifest|reported a torn sail|counted the cargo twice|"
    "sent for a doctor|paid the dues in silver|complained about the noise|mended the forward pump|"
    "waited for the tide|lost an anchor|found the missing chart|changed the lamps|"
    "painted the waterline|hired two hands|sealed the after hold|sounded the channel|"
    "refused the tow|brought letters from abroad|measured the draught|went ashore without leave|"
    "repaired the winch|traded a clock for a compass|watched the current turn|wrote to the owners"
).split("|")
REMARKS = (
    "Nobody remembered a spring so quiet.|The bell at the point was heard all night.|"
    "Two lamps on the breakwater failed and were lit again.|The tide was higher than the tables.|"
    "Gulls followed the boats in.|A crate burst and the whole quay smelled of pepper.|"
    "The ledger and the tally did not agree until the third count.|"
    "Ice closed the inner basin for an hour.|The radio spoke of storms beyond the cape.|"
    "School children came to see the crane lift an engine.|The ferry ran late and ran full.|"
    "Somebody left a violin in the waiting room.|The keeper's dog slept through the alarm.|"
    "A rainbow stood over the salt sheds.|The dredger worked until the light was gone."
).split("|")

CHATTER = """\
You are a helpful assistant. Answer briefly, and say so when you do not know.
What is the shortest way from the lighthouse to the market? Why does the tide turn twice a day?
Please write a short letter to the owners of the ship, and list every cargo in order of weight.
Explain in simple words how a crane lifts more than its own weight. Translate the next sentence.
Write a function that sorts a list of numbers: def sort(values): return sorted(values)
for i in range(10): print(i, i * i)   if x == 0: return None   while True: break
{"name": "get_weather", "arguments": {"city": "Lisbon", "unit": "celsius"}} [1, 2, 3] <a href="#">
Memory is cheap, but moving it is not: send what the other side lacks, and send it early.
First we compute the prompt, then we carry its memory over the line, and then we answer.
The answer should be the same whichever way it went. A straße, a café, a naïve idea, 東京, привет.
Yes. No. Perhaps! Who? When? Where? How many? Thank you; that is all, said the pilot: good night.
"""

# Words a model may say: the tokenizer learns each as one token.
VOICE = (
    "above across after again against almost along already always among another around because "
    "become before began behind below beside between beyond bright broken brought build called "
    "carry caught chance change child choose circle clean clear close cloud coast colour common "
    "corner could count course cover cross current dance danger daughter decide deep different "
    "distance doubt dream early earth edge eight empty enough evening every example experience "
    "familiar famous father feather fellow field figure finger finish first floor flower follow "
    "foreign forest forget forward fourth free fresh friend front garden gather gentle giant "
    "glass golden grand great green ground group grow guard guess half hand happen happy harbour "
    "heart heavy hidden history hold hollow honest hope horse house human hundred idea inside "
    "instead island journey keep kitchen known lamp language large last later laugh learn leave "
    "letter level light listen little lonely longer lucky machine market matter meadow meaning "
    "measure memory middle minute mirror moment money month moon morning mother mountain move "
    "music narrow nature near never night noise north nothing number ocean often older once only "
    "open orange order other outside paper partner past patient people perfect perhaps picture "
    "piece place plain planet plenty point power present pretty promise proud purple quarter "
    "question quick quiet rain reach ready reason remember return ribbon river road round second "
    "secret seldom seven shadow shape sharp shelter shore short silence silver simple single "
    "sister sleep slowly small smile smooth soft someone song south space speak spring square "
    "stone story strange stream street strong sudden summer sunlight supper surface table teacher "
    "thing third thought thousand thread three through ticket together tomorrow toward travel "
    "tree trouble true turn twelve twenty under until upon useful valley village visit voice "
    "wait walk water weather welcome west while whisper white whole wild window winter wish "
    "within without wonder wooden word world yellow yesterday young"
).split()


def harbour_log(seed: int, *, entries: int) -> str:
    """A log of ``entries`` entries, a line each, about 42 tokens per entry. Pure."""
    rng = random.Random(seed)
    clock, lines = 5 * 60, []
    for number in range(1, entries + 1):
        clock += 5 + int(rng.random() * 40)
        lines.append(f"{number}. {clock // 60 % 24:02d}:{clock % 60:02d} {_entry(rng)}")
    return "\n".join(lines)


def _entry(rng: random.Random) -> str:
    text = (
        f"The {_pick(rng, KINDS)} {_pick(rng, SHIPS)} at {_pick(rng, BERTHS)} with "
        f"{int(rng.random() * 900) + 10} {_pick(rng, UNITS)} of {_pick(rng, CARGOES)}; "
        f"{_pick(rng, WEATHER)}; {_pick(rng, PEOPLE)} {_pick(rng, DEEDS)}."
    )
    return f"{text} {_pick(rng, REMARKS)}" if rng.random() < 0.25 else text


def _pick(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


def training_text() -> list[str]:
    """What the tokenizer is trained on."""
    numbers = " ".join(f"{n} {n:02d} {n:03d}" for n in range(2200))
    voice = "".join(f" {word}" for word in VOICE)
    return [CHATTER, voice * 8, numbers, *(harbour_log(seed, entries=200) for seed in range(4))]
