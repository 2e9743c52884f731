// The dashboard in a real browser, against a real Berth: what a person does there from the first page to signing out.
// `tests/browser/run` prepares and starts it. Pictures of what was seen are in tests/browser/out.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { Berth, Browser, PHONE, inaccessible, picture, until } from "./berth.mjs";

const SITE = new URL("../../controller/dashboard/samples/static", import.meta.url).pathname;
let berth, browser, page, repo;

before(async () => {
  berth = await Berth.start();
  browser = await Browser.start();
});

after(async () => {
  await browser?.stop();
  await berth?.stop();
});

const app = (path = "") => `${berth.base}/ui/apps/hello${path}`;

/** Presses what sends a form, and waits until it is done; `then` is the page it leads to, if another. */
async function done(page, press, then) {
  await press();
  const progress = page.locator("#progress[open]");
  await until("the form to be done", async () => {
    if (await progress.isVisible()) return /Done|did not work/.test(await page.locator("#progress-end").textContent());
    return (await page.locator("form[aria-busy]").count()) === 0 && (await page.locator(".toast, .wrong").count()) > 0;
  }, 60);
  assert.equal(await page.locator(".wrong, .toast.bad").count(), 0, await page.locator("body").innerText());
  if (await progress.isVisible()) {
    assert.match(await page.locator("#progress-end").textContent(), /Done/, await page.locator("#progress-lines").textContent());
    await page.keyboard.press("Escape");
  }
  if (then) await page.waitForURL(then);
}

test("who is not signed in sees nothing but the way in", async () => {
  const stranger = await browser.visitor();
  await stranger.goto(app());
  await stranger.waitForURL("**/ui/sign-in?next=*");
  assert.equal(await stranger.locator("nav").count(), 0);
  await stranger.getByLabel("Token").fill("berth_wrong");
  await stranger.getByRole("button", { name: "Sign in" }).click();
  await stranger.getByRole("alert").getByText("not known").waitFor();
  assert.deepEqual(await inaccessible(stranger), []);
  await picture(stranger, "sign-in");
  // What anybody may fetch is no secret.
  for (const path of ["/ui/apps", "/ui/apps/hello/config", "/ui/access"]) {
    const answer = await fetch(berth.base + path, { redirect: "manual", headers: { accept: "text/html" } });
    assert.equal(answer.status, 303, path);
    assert.match(answer.headers.get("location"), /^\/ui\/sign-in/);
  }
  await stranger.context().close();
});

test("wrong tokens are slowed down, and say so", async () => {
  const attempt = () =>
    fetch(berth.base + "/ui/sign-in", {
      method: "POST",
      redirect: "manual",
      headers: { origin: berth.base, "content-type": "application/x-www-form-urlencoded", "x-not": "a browser" },
      body: "token=berth_guess",
    });
  const seen = [];
  for (let count = 0; count < 14; count++) seen.push((await attempt()).status);
  assert.ok(seen.includes(401) && seen.at(-1) === 429, seen.join());
});

test("a link of the CLI signs in, once", async () => {
  const link = berth.link();
  page = await browser.visitor();
  await page.goto(link);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL("**/ui/apps");
  const cookies = await page.context().cookies();
  assert.equal(cookies.length, 1);
  assert.ok(cookies[0].httpOnly && cookies[0].sameSite === "Strict", JSON.stringify(cookies));
  const other = await browser.visitor();
  await other.goto(link);
  await other.getByRole("button", { name: "Sign in" }).click();
  await other.getByRole("alert").waitFor();
  await other.context().close();
});

test("the first page says what to type", async () => {
  await page.goto(berth.base + "/ui/");
  const text = await page.locator("main").innerText();
  assert.match(text, /berth ssh-keys:add me/);
  assert.match(text, new RegExp(`git remote add paas ssh://paas@127\\.0\\.0\\.1:${berth.ssh}/`));
  assert.match(text, /git push paas main/);
  assert.deepEqual(await inaccessible(page), []);
  await picture(page, "first-run");
});

test("nobody else's page changes anything", async () => {
  const cookie = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
  const create = (headers) =>
    fetch(berth.base + "/ui/apps", {
      method: "POST",
      redirect: "manual",
      headers: { cookie, "content-type": "application/x-www-form-urlencoded", ...headers },
      body: "name=forged",
    });
  for (const headers of [{}, { origin: "http://evil.test" }, { origin: "null" }, { origin: berth.base, "sec-fetch-site": "cross-site" }]) {
    assert.equal((await create(headers)).status, 403, JSON.stringify(headers));
  }
  // The API takes no cookies at all.
  assert.equal((await fetch(berth.base + "/v1/apps", { headers: { cookie } })).status, 401);
  assert.deepEqual(berth.json(["apps:list"]), []);
});

test("a sample is two clicks: its build is seen live, and it answers", async () => {
  await page.goto(berth.base + "/ui/apps");
  await page.getByRole("button", { name: "Deploy it Node.js" }).click();
  const dialog = page.locator("dialog#new-app");
  assert.equal(await dialog.getByLabel("Name").inputValue(), "hello", "a free name is proposed");
  await dialog.getByLabel("Name").fill("sample-node");
  await dialog.getByRole("button", { name: "Create" }).click();
  await page.waitForURL("**/ui/apps/sample-node/builds/*");
  await page.getByText("Adding the app's files").waitFor({ timeout: 120_000 });
  await page.getByText("Application deployed").waitFor({ timeout: 60_000 });
  assert.match(await berth.get("sample-node"), /It is live[^]*container <code>web\.1</);
  assert.match(await berth.get("sample-node", "/style.css"), /--accent/);
  await page.goto(berth.base + "/ui/apps/sample-node");
  await page.getByText("Get its code").click();
  await page.getByText(`git clone ssh://paas@127.0.0.1:${berth.ssh}/sample-node`).waitFor();

  // A name that is taken is refused where it was typed.
  await page.goto(berth.base + "/ui/apps");
  await page.getByRole("button", { name: "New app" }).click();
  await dialog.getByLabel("Name").fill("sample-node");
  await dialog.getByLabel("Begin with").selectOption("static");
  await dialog.getByRole("button", { name: "Create" }).click();
  await dialog.locator(".wrong").getByText(/sample-node/).waitFor();
  await page.keyboard.press("Escape");
});

test("a push shows while it builds, and what it made appears by itself", async () => {
  repo = berth.repository("python-flask", "hello");
  await page.goto(berth.base + "/ui/apps");
  const pushed = repo.push();
  await page.getByRole("link", { name: "hello", exact: true }).waitFor({ timeout: 30_000 });
  await page.goto(app("/deploys"));
  await page.getByRole("link", { name: /output/i }).first().click({ timeout: 30_000 });
  await page.getByText("Adding the app's files").waitFor({ timeout: 120_000 });
  await pushed;
  await page.getByText("Application deployed").waitFor();
  await page.locator("main .state", { hasText: "succeeded" }).first().waitFor();
  await picture(page, "build");
  await page.goto(app());
  await page.locator("#process-web .state", { hasText: "running" }).waitFor();
  await page.locator(".uplot canvas").first().waitFor();
  assert.deepEqual(await inaccessible(page), []);
  await picture(page, "app");
});

test("an app without a deploy begins with a sample as well", async () => {
  for (const [sample, words] of [["Python", "It is live"], ["Static site", "It is live"]]) {
    const name = "sample-" + sample.slice(0, 6).toLowerCase();
    berth.cli(["apps:create", name]);
    await page.goto(`${berth.base}/ui/apps/${name}`);
    await page.getByRole("button", { name: `Deploy ${sample}` }).click();
    await page.waitForURL(`**/ui/apps/${name}/builds/*`);
    await page.getByText("Application deployed").waitFor({ timeout: 120_000 });
    assert.match(await berth.get(name), new RegExp(words));
  }
});

test("scaling is a click, and the new container appears by itself", async () => {
  await page.goto(app());
  await done(page, () => page.getByRole("button", { name: "Scale up web to 2" }).click());
  await page.locator("#process-web tbody tr").nth(1).locator(".state", { hasText: "running" }).waitFor();
  assert.equal(berth.json(["ps:report", "hello"]).containers.length, 2);
  await done(page, () => page.getByRole("button", { name: "Scale down web to 1" }).click());
  await until("one container", async () => (await page.locator("#process-web tbody tr").count()) === 1);
});

test("a variable is set, masked, shown when asked for, and reaches the app", async () => {
  await page.goto(app("/config"));
  await page.getByRole("button", { name: "Add variable" }).click();
  const add = page.locator("dialog#add");
  await add.getByLabel("Name").fill("GREETING");
  await add.getByLabel("Value", { exact: true }).fill("good morning <b>");
  await done(page, () => add.getByRole("button", { name: "Set" }).click());
  const row = page.getByRole("row", { name: /GREETING/ });
  await row.waitFor();
  assert.ok(!(await page.content()).includes("good morning"), "the value is not in the page");
  await row.getByRole("button", { name: /show/i }).click();
  await row.getByText("good morning <b>").waitFor();
  assert.match(await berth.get("hello"), /greeting=good morning <b>/);
  await page.locator("main").getByText("tester", { exact: false }).or(page.locator("main").getByText("local")).first().waitFor();
  await picture(page, "config");
});

test("a bad .env is refused line by line, a good one is taken", async () => {
  await page.goto(app("/config"));
  await page.getByRole("button", { name: "Paste .env" }).click();
  const paste = page.locator("dialog#paste");
  await paste.getByLabel("KEY=VALUE lines").fill("A=1\nnot a line\n");
  await paste.getByRole("button", { name: "Set" }).click();
  await paste.locator(".wrong").getByText(/line 2/).waitFor();
  await paste.getByLabel("KEY=VALUE lines").fill("# words\nexport A=1\nB='two words'\n");
  await done(page, () => paste.getByRole("button", { name: "Set" }).click());
  await page.getByRole("row", { name: /^B\b/ }).waitFor();
  assert.equal(berth.json(["config:show", "hello"]).B, "two words");
});

test("another push is followed in the logs, and rolled back", async () => {
  const source = `${repo.dir}/app.py`;
  const said = "\n\n@app.before_request\ndef said():\n    print('asked for', request.path, flush=True)\n";
  fs.writeFileSync(source, fs.readFileSync(source, "utf8").replace("hello from", "a new version of") + said);
  repo.commit("second");
  await repo.push();
  assert.match(await berth.get("hello"), /a new version/);
  await page.goto(app("/logs"));
  await berth.get("hello", "/from-the-browser-test");
  await page.getByText("asked for /from-the-browser-test").first().waitFor();
  assert.deepEqual(await inaccessible(page), []);
  await picture(page, "logs");

  await page.goto(app("/deploys"));
  const first = page.getByRole("row", { name: /Deploy / }).last();
  await first.getByRole("button", { name: /roll back/i }).click();
  await done(page, () => page.locator("dialog#roll-back").getByRole("button", { name: "Roll back" }).click());
  assert.match(await berth.get("hello"), /hello from/);
  await page.getByRole("row", { name: /Rollback to v1/ }).getByText("current").waitFor();
  await picture(page, "deploys");
});

test("the next deploy is tried with some of the requests, and promoted from the app's page", async () => {
  await page.goto(app("/deploys"));
  await page.getByRole("button", { name: "Canary next" }).click();
  const next = page.locator("dialog#canary-next");
  await next.getByLabel("Percent").fill("20");
  await done(page, () => next.getByRole("button", { name: "Set" }).click());
  await page.locator("#next-is-canary").getByText("20 %").waitFor();
  berth.cli(["config:set", "hello", "GREETING=on trial"]);
  await page.locator("#canary").getByText("20 %").waitFor();
  await page.goto(app());
  assert.deepEqual(await inaccessible(page), []);
  await picture(page, "canary");
  await page.locator("#canary").getByRole("button", { name: "Promote" }).click();
  await done(page, () => page.locator("dialog#promote").getByRole("button", { name: "Promote" }).click(), app("/deploys"));
  await until("all requests to be its", async () => /greeting=on trial/.test(await berth.get("hello")));
  await page.goto(app());
  await page.locator("#process-web").waitFor();
  assert.equal(await page.locator("#canary").count(), 0);
});

test("how an app is deployed and how much of its log is kept are forms; a blue/green deploy is taken back", async () => {
  await page.goto(app("/settings"));
  await page.locator("section", { has: page.locator("h2#deploys") }).getByRole("button", { name: "Change" }).click();
  const deploys = page.locator("dialog#deploys-how");
  await deploys.getByLabel("New releases").selectOption("blue-green");
  await deploys.getByLabel("Watched for").fill("soon");
  await deploys.getByRole("button", { name: "Set" }).click();
  await deploys.locator(".wrong").getByText(/rollback-window/).waitFor();
  await deploys.getByLabel("Watched for").fill("2m");
  await done(page, () => deploys.getByRole("button", { name: "Set" }).click());
  const { strategy, rollback_window_secs } = berth.json(["deploy:report", "hello"]);
  assert.deepEqual([strategy, rollback_window_secs], ["blue-green", 120]);

  await page.getByRole("button", { name: "How much is kept" }).click();
  const logs = page.locator("dialog#logs-kept");
  await logs.getByLabel("Largest log").fill("128");
  await done(page, () => logs.getByRole("button", { name: "Set" }).click());
  await page.locator("main").getByText("up to 128 MiB").waitFor();
  await picture(page, "app-settings");

  berth.cli(["config:set", "hello", "GREETING=green"]);
  await page.goto(app());
  await page.locator("#kept").getByRole("button", { name: "Go back to it" }).click();
  await done(page, () => page.locator("dialog#take-back").getByRole("button", { name: "Go back" }).click(), app("/deploys"));
  assert.match(await berth.get("hello"), /greeting=on trial/);
  berth.cli(["deploy:set", "hello", "strategy"]);
});

test("a change of a variable shows its values when asked for", async () => {
  await page.goto(app("/config"));
  const change = page.locator(".events li", { hasText: "GREETING" }).first();
  await change.waitFor();
  assert.ok(!(await page.content()).includes("on trial"), "no value is in the page");
  await change.getByRole("button", { name: "Show its values" }).click();
  await change.locator("td", { hasText: "green" }).waitFor();
  await change.locator("td", { hasText: "on trial" }).waitFor();
  assert.deepEqual(await inaccessible(page), []);
  await picture(page, "config-change");
  await change.getByRole("button", { name: "Hide its values" }).click();
  assert.equal(await change.locator("td").count(), 0);
});

test("what runs is deployed on another app, and an image by its name", async () => {
  for (const name of ["hello-two", "hello-three"]) berth.cli(["apps:create", name]);
  await page.goto(app("/deploys"));
  await page.getByRole("button", { name: "Deploy on another app" }).click();
  const onto = page.locator("dialog#deploy-onto");
  await onto.getByLabel("Other app").selectOption("hello-two");
  await done(page, () => onto.getByRole("button", { name: "Deploy" }).click(), "**/ui/apps/hello-two/deploys");
  assert.match(await berth.get("hello-two"), /hello from/);

  await page.goto(`${berth.base}/ui/apps/hello-three/deploys`);
  await page.getByRole("button", { name: "Deploy an image" }).click();
  const image = page.locator("dialog#deploy-image");
  await image.getByLabel("Image").fill("No Image");
  await image.getByRole("button", { name: "Deploy" }).click();
  await image.locator(".wrong").getByText(/No Image/).waitFor();
  await image.getByLabel("Image").fill("apps/hello");
  await done(page, () => image.getByRole("button", { name: "Deploy" }).click());
  assert.match(await berth.get("hello-three"), /hello from/);
});

test("an image is taken home and deployed from there, and so are sources", async () => {
  const { version } = berth.json(["releases", "hello"]).find((release) => release.current);
  await page.goto(app(`/releases/${version}`));
  const fetched = async (link) => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: link }).click()]);
    return { name: download.suggestedFilename(), file: await download.path() };
  };
  const image = await fetched("Download"), bill = await fetched("CycloneDX");
  assert.deepEqual([image.name, bill.name], [`hello-v${version}.tar`, "hello.cdx.json"]);
  assert.equal(JSON.parse(fs.readFileSync(bill.file, "utf8")).bomFormat, "CycloneDX");

  berth.cli(["apps:create", "hello-home"]);
  await page.goto(`${berth.base}/ui/apps/hello-home/deploys`);
  const dialog = page.locator("dialog#upload"), end = page.locator("#progress-end");
  const send = async (kind, file) => {
    await page.getByRole("button", { name: "Upload a file" }).click();
    await dialog.getByLabel("What it is").selectOption(kind);
    await dialog.getByLabel("File").setInputFiles(file);
    await dialog.getByRole("button", { name: "Deploy" }).click();
  };
  await send("sources", { name: "odd.zip", mimeType: "application/zip", buffer: Buffer.from("no archive") });
  await end.getByText("That did not work.").waitFor();
  await page.locator("#progress-lines").getByText(/Sending odd\.zip, 1 kB/).waitFor();
  await page.locator("dialog#progress").getByRole("button", { name: "Close" }).click();

  await send("image", image.file);
  await end.getByText("Done.").waitFor();
  assert.match(await berth.get("hello-home"), /hello from/);
  await page.locator("dialog#progress").getByRole("button", { name: "Close" }).click();

  const site = path.join(berth.dir, "site.tar.gz");
  execFileSync("tar", ["-czf", site, "-C", SITE, "index.html"]);
  await send("sources", site);
  await end.getByText("Done.").waitFor();
  assert.match(await berth.get("hello-home"), /<html/);
  berth.cli(["--force", "apps:destroy", "hello-home"]);
});

test("logs of an app are sent elsewhere, and no more", async () => {
  await page.goto(app("/settings"));
  await page.getByRole("button", { name: "Add drain" }).click();
  const drain = page.locator("dialog#logs-drain");
  await drain.getByLabel("Where to").fill("gopher://logs.example.com");
  await drain.getByRole("button", { name: "Add" }).click();
  await drain.locator(".wrong").getByText(/gopher/).waitFor();
  await drain.getByLabel("Where to").fill("syslog+udp://192.0.2.1:514");
  await done(page, () => drain.getByRole("button", { name: "Add" }).click());
  const row = page.getByRole("row", { name: /192\.0\.2\.1/ });
  await row.getByRole("button", { name: /Remove/ }).click();
  await done(page, () => page.locator("dialog#remove-drain").getByRole("button", { name: "Remove" }).click());
  await row.waitFor({ state: "detached" });
});

test("a page that is not there keeps the navigation", async () => {
  for (const where of ["/ui/none", "/ui/apps/none", "/ui/apps/%20"]) {
    await page.goto(berth.base + where);
    await page.getByRole("heading", { name: "There is no such page" }).waitFor();
    await page.getByRole("link", { name: "Try again" }).waitFor();
    await page.getByText("Signed in as").waitFor();
  }
  await page.getByRole("link", { name: "Nodes" }).click();
  await page.waitForURL("**/ui/nodes");
});

test("a terminal in a container takes what is typed and says how it ended", async () => {
  await page.goto(app("/terminal?container=web.1"));
  await page.getByRole("button", { name: "Connect" }).click();
  const screen = page.locator("#terminal-screen");
  await screen.locator(".xterm-rows").waitFor();
  await page.locator("#terminal-state", { hasText: /connected/i }).waitFor();
  await page.keyboard.type("echo sum-$((20+3)); exit 7\n");
  await screen.getByText("sum-23").first().waitFor();
  await page.getByText(/code 7/).first().waitFor();
  await picture(page, "terminal");
  // A page of somebody else gets no terminal.
  const stolen = await page.evaluate(async () => (await fetch(location.pathname + "/socket?container=web.1")).status);
  assert.ok(stolen >= 400, String(stolen));
});

test("a node is cordoned and takes work again; the only one is not drained", async () => {
  const [{ name }] = berth.json(["node:list"]);
  const node = () => berth.json(["node:list"])[0];
  await page.goto(`${berth.base}/ui/nodes/${name}`);
  await done(page, () => page.getByRole("button", { name: "Cordon", exact: true }).click());
  await page.getByRole("button", { name: "Uncordon" }).waitFor();
  assert.equal(node().cordoned, true);
  await done(page, () => page.getByRole("button", { name: "Uncordon" }).click());
  await until("it to take work", () => node().cordoned === false);
  await page.getByRole("button", { name: "Drain", exact: true }).click();
  const dialog = page.locator("dialog#drain-node");
  await dialog.getByRole("button", { name: "Drain" }).click();
  await dialog.getByRole("alert").getByText("there is no other node").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.ok(!node().draining && !node().cordoned);
});

test("a variable is made with the keyboard alone", async () => {
  await page.goto(berth.base + "/ui/apps");
  const focused = () => page.evaluate(() => document.activeElement?.textContent.trim() || document.activeElement?.getAttribute("aria-label") || "");
  const tabTo = (wanted) => until(`Tab to lead to ${wanted}`, async () => {
    await page.keyboard.press("Tab");
    return (await focused()) === wanted;
  });
  await tabTo("hello");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/ui/apps/hello");
  await page.keyboard.press("4");
  await page.waitForURL("**/ui/apps/hello/config");
  await tabTo("Add variable");
  // Who moves by keys sees where they are.
  assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none");
  await page.keyboard.press("Enter");
  await page.locator("dialog#add[open]").waitFor();
  await page.keyboard.type("BY_KEYS");
  await page.keyboard.press("Tab");
  while ((await page.evaluate(() => document.activeElement.tagName)) !== "TEXTAREA") await page.keyboard.press("Tab");
  await page.keyboard.type("two words");
  await tabTo("Set");
  await done(page, () => page.keyboard.press("Enter"));
  await page.getByRole("row", { name: /BY_KEYS/ }).waitFor();
  assert.match(berth.cli(["config:get", "hello", "BY_KEYS"]), /^two words$/m);
  assert.equal(await focused(), "Add variable", "the dialog gives the focus back to what opened it");
});

test("a phone is enough to scale and to roll back", async () => {
  const phone = await browser.signedIn(berth, { viewport: PHONE, hasTouch: true, isMobile: true, reducedMotion: "reduce" });
  const fits = async () => assert.ok((await phone.evaluate(() => document.documentElement.scrollWidth)) <= PHONE.width);
  const tap = async (target) => {
    const { width, height } = await target.boundingBox();
    assert.ok(height >= 40 || width * height >= 40 * 40, `${await target.innerText()} is ${width} by ${height} px`);
    await target.tap();
  };
  await tap(phone.getByRole("link", { name: "hello", exact: true }));
  await phone.waitForURL("**/ui/apps/hello");
  await done(phone, () => tap(phone.getByRole("button", { name: "Scale up web to 2" })));
  // Those of a release before may be kept beside.
  const numbers = () => new Set(berth.json(["ps:report", "hello"]).containers.map(({ ordinal }) => ordinal));
  await until("two containers", () => numbers().size === 2);
  await phone.locator("#process-web tbody tr").nth(1).locator(".state", { hasText: "running" }).waitFor();
  await fits();
  assert.equal(await phone.evaluate(() => document.getAnimations().length), 0, "who wants no motion gets none");
  await done(phone, () => tap(phone.getByRole("button", { name: "Scale down web to 1" })));
  await tap(phone.getByRole("link", { name: "Deploys", exact: true }));
  await phone.waitForURL("**/deploys");
  await tap(phone.getByRole("row", { name: /Deploy / }).first().getByRole("button", { name: /roll back/i }));
  const dialog = phone.locator("dialog#roll-back");
  await fits();
  await picture(phone, "phone-roll-back");
  await done(phone, () => tap(dialog.getByRole("button", { name: "Roll back" })));
  await until("the version before", async () => /a new version/.test(await berth.get("hello")));
  await phone.context().close();
});

test("an image says what it is made of", async () => {
  await page.goto(berth.base + "/ui/images");
  await page.getByRole("row", { name: /^apps\/hello/ }).first().locator("a[href^='/ui/images/']").click();
  const { digest } = berth.json(["images:list", "hello"]).find(({ digest }) => page.url().endsWith(encodeURIComponent(digest)));
  const { layers } = berth.json(["images:layers", digest]);
  assert.ok(layers.length > 1 && layers.some((layer) => layer.shared_with > 0), JSON.stringify(layers));
  assert.equal(await page.locator("tbody tr").count(), layers.length);
});

test("every page fits, in both themes and on a phone, and axe finds nothing", async () => {
  const places = ["", "/deploys", "/logs", "/config", "/domains", "/storage", "/jobs", "/terminal", "/settings"].map((path) => "/ui/apps/hello" + path);
  places.push("/ui/apps", "/ui/nodes", "/ui/images", "/ui/networks", "/ui/activity", "/ui/access", "/ui/settings", "/ui/settings/config", "/ui/apps/none", "/ui/none");
  const image = berth.json(["images:list", "hello"])[0].digest;
  places.push(`/ui/images/${image}`, `/ui/nodes/${berth.json(["node:list"])[0].name}`);
  for (const [name, options] of [["dark", { colorScheme: "dark" }], ["phone", { viewport: PHONE, hasTouch: true }]]) {
    const visitor = await browser.signedIn(berth, options);
    for (const where of places) {
      await visitor.goto(berth.base + where);
      await visitor.locator("main h1").first().waitFor();
      const wide = await visitor.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${where} is ${wide} px wider than the ${name} screen`);
      assert.deepEqual(await inaccessible(visitor), [], `${where} ${name}`);
      await picture(visitor, `${name}${where.replace(/sha256:.*/, "one").replaceAll("/", "-")}`);
    }
    await visitor.context().close();
  }
});

test("a first page is small and comes at once", async () => {
  const visitor = await browser.signedIn(berth);
  const cdp = await visitor.context().newCDPSession(visitor);
  await cdp.send("Network.enable");
  await cdp.send("Network.setCacheDisabled", { cacheDisabled: true });
  let bytes = 0;
  cdp.on("Network.loadingFinished", ({ encodedDataLength }) => { bytes += encodedDataLength; });
  await visitor.goto(app());
  await visitor.locator(".uplot canvas").first().waitFor();
  assert.ok(bytes > 10_000 && bytes < 200_000, `${bytes} bytes`);
  await visitor.context().close();
});

test("an app that is stopped wants its name, and starts again", async () => {
  await page.goto(app());
  await page.getByRole("button", { name: "Stop" }).click();
  const dialog = page.locator("dialog#stop-app");
  await dialog.getByLabel(/type/).fill("hell");
  await dialog.getByRole("button", { name: "Stop" }).click();
  assert.ok(await dialog.isVisible(), "the name is not right yet");
  await dialog.getByLabel(/type/).fill("hello");
  await done(page, () => dialog.getByRole("button", { name: "Stop" }).click());
  await page.locator("h1 + .state", { hasText: "stopped" }).waitFor();
  await done(page, () => page.getByRole("button", { name: "Start", exact: true }).click());
  await page.locator("h1 + .state", { hasText: "running" }).waitFor();
});

test("the keyboard is enough", async () => {
  await page.goto(berth.base + "/ui/apps");
  await page.keyboard.press("/");
  await page.keyboard.type("zzz");
  await page.getByText("No app has this").waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("g");
  await page.keyboard.press("n");
  await page.waitForURL("**/ui/nodes");
  await page.keyboard.press("?");
  await page.locator("dialog#keys[open]").waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the page");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
});

test("a page says when it is stale, and recovers by itself", async () => {
  await page.goto(app());
  await page.locator("#process-web .state", { hasText: "running" }).first().waitFor();
  berth.signal("controller", "SIGSTOP");
  try {
    await page.locator("#stale", { hasText: "may be old" }).waitFor({ timeout: 40_000 });
  } finally {
    berth.signal("controller", "SIGCONT");
  }
  await page.locator("#stale").waitFor({ state: "hidden", timeout: 30_000 });
});

test("all other browsers are signed out at once", async () => {
  const other = await browser.signedIn(berth);
  await other.goto("about:blank");
  await page.goto(berth.base + "/ui/access");
  await page.getByRole("button", { name: "End all others" }).click();
  await done(page, () => page.locator("dialog#end-others").getByRole("button", { name: "End them" }).click());
  await other.goto(berth.base + "/ui/apps");
  await other.waitForURL(/\/ui\/sign-in/);
  assert.equal(berth.json(["dashboard:sessions"]).length, 1);
  await other.context().close();
});

test("signing out ends the session on the server", async () => {
  const cookie = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
  await page.goto(berth.base + "/ui/apps");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL(/\/ui\/sign-in/);
  const answer = await fetch(berth.base + "/ui/apps", { redirect: "manual", headers: { cookie, accept: "text/html" } });
  assert.equal(answer.status, 303, "the cookie is worth nothing any more");
});

test("everything that was done is in the audit log", () => {
  const events = berth.cli(["events", "--num", "1000", "--format", "json"]).trim().split("\n").map((line) => JSON.parse(line));
  const kinds = new Set(events.map(({ kind }) => kind));
  for (const kind of ["sessions.begin", "ps.scale", "config.set", "releases.rollback", "ps.stop", "sessions.end"]) assert.ok(kinds.has(kind), `${kind} of ${[...kinds]}`);
});

test("no page complained", () => assert.deepEqual(browser.complaints, []));
