# Says apt what is there already. In: /var/lib/dpkg/status of the build image, /var/lib/dpkg/status.d of layers below,
# DEBIAN_RUN_PACKAGES, DEBIAN_FOR_IMAGE. Out: a status file with what the run image has (yes) or the build image (no), and layers.
import glob, os, re

for_image = os.environ["DEBIAN_FOR_IMAGE"] == "yes"


def stanzas(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        for stanza in file.read().split("\n\n"):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.M))
            if fields.get("Package"):
                yield fields, stanza.strip("\n")


def names(text):
    """Groups of alternatives, without versions and architectures."""
    for group in filter(None, map(str.strip, text.split(","))):
        yield [re.split(r"[ (:\[]", name.strip())[0] for name in group.split("|")]


have = {fields["Package"]: (fields, stanza) for fields, stanza in stanzas("/var/lib/dpkg/status")}
if for_image:
    provides = {}
    for name, (fields, _) in have.items():
        for (virtual,) in names(fields.get("Provides", "")):
            provides.setdefault(virtual, []).append(name)
    # As mmdebstrap chose them: what every Debian has, apt, and the stack's list; then what those need.
    todo = os.environ["DEBIAN_RUN_PACKAGES"].split() + ["apt"]
    todo += [name for name, (fields, _) in have.items() if fields.get("Essential") == "yes" or fields.get("Priority") == "required"]
    kept = set()
    while todo:
        name = todo.pop()
        if name in kept or name not in have:
            continue
        kept.add(name)
        for field in ("Depends", "Pre-Depends"):
            for group in names(have[name][0].get(field, "")):
                real = next((other for other in group if other in have), None)
                virtual = next((other for word in group for other in provides.get(word, ())), None)
                todo.append(real or virtual or "")
    have = {name: have[name] for name in kept}
for path in glob.glob("/var/lib/dpkg/status.d/*"):
    have.update({fields["Package"]: (fields, stanza) for fields, stanza in stanzas(path)})
with open("/tmp/debian/status", "w", encoding="utf-8") as file:
    file.writelines(stanza + "\n\n" for _, stanza in have.values())
