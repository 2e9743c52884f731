# Fetches packages from the npm registry with nothing but Python: Node.js itself does not exist yet.
# In: arguments in threes, PACKAGE RANGES DIRECTORY. PACKAGE node is Node.js for this machine. RANGES is a list such as
# ">=20.0.0 <21.0.0 || >=22.0.0"; for npm also "bundled": what that line of Node.js brings itself.
# Out: the newest version in range, its integrity hash checked, unpacked into DIRECTORY.
import base64, concurrent.futures, hashlib, json, os, platform, subprocess, sys, time, urllib.error, urllib.request

registry = (os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY") or "https://registry.npmjs.org").rstrip("/")
machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


class Problem(Exception):
    pass


def get(url, accept="*/*"):
    for attempt in range(3):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise Problem(f"{url} answered {error.code}")
            problem = f"{url} answered {error.code}"
        except OSError as error:
            problem = f"{url}: {getattr(error, 'reason', error)}"
        time.sleep(attempt)
    raise Problem(problem)


def parse(version):
    parts = version.split(".")
    return tuple(map(int, parts)) if len(parts) == 3 and all(part.isdigit() for part in parts) else None


def satisfies(version, ranges):
    def holds(comparator):
        if comparator.startswith(">="):
            return version >= parse(comparator[2:])
        if comparator.startswith("<"):
            return version < parse(comparator[1:])
        return version == parse(comparator)
    return any(all(map(holds, ranges_.split())) for ranges_ in ranges.split("||"))


def resolve(package, ranges):
    index = json.loads(get(f"{registry}/{package.replace('/', '%2f')}", "application/vnd.npm.install-v1+json"))
    found = [(parse(text), entry) for text, entry in index["versions"].items()]
    found = [(version, entry) for version, entry in found if version and satisfies(version, ranges)]
    if not found:
        named = "Node.js" if package.startswith("node-linux") else package
        raise Problem(f"{registry} has no version of {named} in the range {ranges}")
    return max(found, key=lambda pair: pair[0])


def check(package, dist, data):
    if dist.get("integrity"):
        for entry in dist["integrity"].split():
            kind, _, expected = entry.partition("-")
            if kind in ("sha512", "sha384", "sha256"):
                if base64.b64encode(hashlib.new(kind, data).digest()).decode() != expected.partition("?")[0]:
                    raise Problem(f"{package} from {registry} does not have the {kind} hash its registry names")
                return kind
    if dist.get("shasum"):
        if hashlib.sha1(data).hexdigest() != dist["shasum"]:
            raise Problem(f"{package} from {registry} does not have the sha1 hash its registry names")
        return "sha1"
    raise Problem(f"{registry} names no hash for {package}, so it cannot be checked")


def fetch(package, version, entry, directory):
    dist = entry["dist"]
    data = get(dist["tarball"])
    kind = check(package, dist, data)
    # tar does in one process what tarfile takes seconds for. It strips package/ and refuses to leave the directory.
    os.makedirs(directory, exist_ok=True)
    untar = ["tar", "--no-same-owner", "--no-same-permissions", "--strip-components=1", "-xzf", "-", "-C", directory]
    if package.startswith("node-linux"):
        untar += ["--exclude=*/share", "--exclude=*.md", "--exclude=*/openssl/archs/[!l]*", "--exclude=*/openssl/archs/linux-[!xa]*", "--exclude=*/openssl/archs/linux-armv4"]
    subprocess.run(untar, input=data, check=True)
    return f"{'Node.js' if package.startswith('node-linux') else package} {'.'.join(map(str, version))} from {registry} ({package}, {kind} checked)"


def bundled(node):
    for line, ranges in ((24, ">=11.0.0 <12.0.0"), (18, ">=10.0.0 <11.0.0"), (16, ">=8.0.0 <9.0.0"), (0, ">=6.0.0 <7.0.0")):
        if node >= line:
            return ranges


def main(arguments):
    jobs, node = [], 99
    for at in range(0, len(arguments), 3):
        package, ranges, directory = arguments[at:at + 3]
        if package == "node":
            package = f"node-linux-{machine}"
            version, entry = resolve(package, ranges)
            node = version[0]
        else:
            version, entry = resolve(package, bundled(node) if ranges == "bundled" else ranges)
        jobs.append((package, version, entry, directory))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for line in pool.map(lambda job: fetch(*job), jobs):
            print(line, flush=True)


try:
    main(sys.argv[1:])
except Problem as problem:
    print(f"{problem}.")
    print("1. Check that such a version exists, and the range in package.json (engines).")
    print("2. Check that this machine reaches its npm registry; behind a company proxy its CA must be in this machine's CA bundle.")
    sys.exit(1)
