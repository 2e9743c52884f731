// A Berth of its own for the browser tests, and a browser in front of it.
//
// In: BERTH_BIN (the binary under test), BERTH_STACK_DIR (its stacks). Out: a platform on free ports of 127.0.0.1 with an empty
// directory, its CLI, pushes by real git, and pages that complain about everything: an error in a script, a refused
// resource, a request to another host.
import { chromium } from "playwright-core";
import { execFile, execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";

const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const root = path.resolve(here, "../..");
export const out = path.join(here, "out");

const bin = process.env.BERTH_BIN ?? path.join(root, "target/debug/berth");
const stacks = process.env.BERTH_STACK_DIR ?? path.join(root, "target/stacks");

/** Waits for a condition: calls `look` until it gives something, for at most `seconds`. */
export async function until(what, look, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  let last = "";
  for (;;) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = String(error);
    }
    if (Date.now() > end) throw new Error(`never: ${what} ${last}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

export class Berth {
  static async start() {
    const berth = new Berth();
    berth.dir = fs.mkdtempSync(path.join(os.tmpdir(), "berth-browser-"));
    berth.data = path.join(berth.dir, "data");
    const [http, ssh, api, cluster] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
    Object.assign(berth, { http, ssh, api, base: `http://127.0.0.1:${api}` });
    const address = (port) => `127.0.0.1:${port}`;
    const words = ["--data", berth.data, "up", "--domain", "test.localhost", "--http", address(http)];
    words.push("--ssh", address(ssh), "--api", address(api), "--cluster", address(cluster), "--stack-dir", stacks);
    const log = fs.openSync(path.join(berth.dir, "log"), "a");
    berth.up = spawn(bin, words, { stdio: ["ignore", log, log] });
    await until("berth up to be ready", () => {
      if (berth.up.exitCode !== null) throw new Error("it has ended");
      return fs.existsSync(path.join(berth.data, "run/ready"));
    }, 120).catch((error) => {
      throw new Error(`${error.message}\n${fs.readFileSync(path.join(berth.dir, "log"), "utf8").slice(-4000)}`);
    });
    berth.key = path.join(berth.dir, "key");
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", berth.key]);
    berth.cli(["ssh-keys:add", "tester", berth.key + ".pub"]);
    return berth;
  }

  /** Runs the CLI as the machine's admin. */
  cli(words) {
    return execFileSync(bin, ["--data", this.data, ...words], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  }

  json(words) {
    return JSON.parse(this.cli([...words, "--format", "json"]));
  }

  /** A link that signs in once, on the address the tests use. */
  link() {
    const url = new URL(this.cli(["dashboard", "--quiet"]).trim());
    return this.base + url.pathname + url.search;
  }

  /** A repository with a sample of tests/samples, not pushed yet. */
  repository(sample, app) {
    const dir = path.join(this.dir, app);
    fs.cpSync(path.join(root, "tests/samples", sample), dir, { recursive: true });
    const git = (...words) => execFileSync("git", ["-C", dir, "-c", "user.name=T", "-c", "user.email=t@example.com", ...words]);
    git("init", "-q", "-b", "main", ".");
    const commit = (message) => { git("add", "-A"); git("commit", "-q", "--allow-empty", "-m", message); };
    commit("first");
    const env = {
      ...process.env,
      GIT_SSH_COMMAND: `ssh -i ${this.key} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR`,
    };
    const push = () =>
      new Promise((resolve, reject) => {
        const words = ["-C", dir, "push", `ssh://paas@127.0.0.1:${this.ssh}/${app}`, "main"];
        execFile("git", words, { env }, (error, stdout, stderr) => (error ? reject(new Error(stderr)) : resolve(stderr)));
      });
    return { dir, commit, push };
  }

  /** `GET path` of an app through the proxy. */
  async get(app, where = "/") {
    const { stdout } = await new Promise((resolve, reject) =>
      execFile("curl", ["-sS", "-H", `Host: ${app}.test.localhost`, `http://127.0.0.1:${this.http}${where}`], (error, stdout) =>
        error ? reject(error) : resolve({ stdout })));
    return stdout;
  }

  /** Sends a signal to a role of `berth up`: `controller`, `agent` or `proxy`. */
  signal(role, name) {
    const children = fs.readFileSync(`/proc/${this.up.pid}/task/${this.up.pid}/children`, "utf8").trim().split(" ");
    const is = (pid) => fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[1] === role;
    process.kill(Number(children.find(is)), name);
  }

  async stop() {
    for (const { name } of this.json(["apps:list"])) this.cli(["--force", "apps:destroy", name]);
    this.up.kill("SIGTERM");
    await new Promise((resolve) => (this.up.exitCode === null ? this.up.once("exit", resolve) : resolve()));
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

export const WIDE = { width: 1360, height: 860 };
export const PHONE = { width: 390, height: 800 };

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.own = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
    });
    browser.complaints = [];
    return browser;
  }

  /** A fresh visitor. Whatever goes wrong on its pages ends up in `complaints`. */
  async visitor(options = {}) {
    const context = await this.own.newContext({ viewport: WIDE, colorScheme: "light", ...options });
    const page = await context.newPage();
    const complain = (what) => this.complaints.push(`${page.url()}: ${what}`);
    page.on("pageerror", (error) => complain(error.stack ?? error.message));
    page.on("console", (message) => {
      // What a test provokes (a refused form, an end of the server) is said by the browser as well.
      if (message.type() === "error" && !/Failed to load resource|ERR_/.test(message.text())) complain(message.text());
    });
    page.on("request", (request) => {
      if (!/^(http:\/\/127\.0\.0\.1:|data:|blob:)/.test(request.url())) complain(`asks ${request.url()}`);
    });
    return page;
  }

  /** The same, signed in. */
  async signedIn(berth, options = {}) {
    const page = await this.visitor(options);
    await page.goto(berth.link());
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForURL("**/ui/apps");
    return page;
  }

  stop() {
    return this.own.close();
  }
}

/** Keeps a picture of the page as an artefact. */
export async function picture(page, name) {
  fs.mkdirSync(out, { recursive: true });
  await page.screenshot({ path: path.join(out, name + ".png"), fullPage: true });
}

const axe = fs.readFileSync(path.join(here, "node_modules/axe-core/axe.min.js"), "utf8");

/** What axe finds against WCAG 2.1 A and AA on the page as it is. */
export async function inaccessible(page) {
  // Evaluated by the debugger, not put into the page: its policy lets no script in.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
  return violations.map((one) => `${one.id} (${one.nodes.length}): ${one.nodes[0].html.slice(0, 200)} ${one.nodes[0].failureSummary ?? ""}`);
}
