// The dashboard in a real browser, against a real Berth: what a person does there from the first page to signing out.
// `tests/browser/run` prepares and starts it. Pictures of what was seen are in tests/browser/out.
import assert from "node:assert/strict";
import fs from "node:fs";
import { after, before, test } from "node:test";
import { Berth, Browser, PHONE, inaccessible, picture, until } from "./berth.mjs";

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

/** Presses what sends a form, and waits until it is done. */
async function done(page, press) {
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

test("scaling is a click, and the new container appears by itself", async () => {
  await page.goto(app());
  await done(page, () => page.getByRole("button", { name: "Scale up web to 2" }).click());
  await page.locator("#process-web tbody tr").nth(1).locator(".state", { hasText: "running" }).waitFor();
  assert.equal(berth.json(["ps:report", "hello"]).containers.length, 2);
  await done(page, () => page.getByRole("button", { name: "Scale down web to 1" }).click());
  await until("one container", async () => (await page.locator("#process-web tbody tr").count()) === 1);
});

test("the logs follow what the app writes", async () => {
  await page.goto(app("/logs"));
  await berth.get("hello", "/from-the-browser-test");
  await page.getByText("/from-the-browser-test").first().waitFor();
  await picture(page, "logs");
  assert.deepEqual(await inaccessible(page), []);
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
  await page.locator("#process-web .state", { hasText: "running" }).waitFor();
  berth.signal("controller", "SIGSTOP");
  try {
    await page.locator("#stale", { hasText: "may be old" }).waitFor({ timeout: 40_000 });
  } finally {
    berth.signal("controller", "SIGCONT");
  }
  await page.locator("#stale").waitFor({ state: "hidden", timeout: 30_000 });
});

test("signing out ends the session on the server", async () => {
  const cookie = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
  await page.goto(berth.base + "/ui/apps");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.waitForURL("**/ui/sign-in");
  const answer = await fetch(berth.base + "/ui/apps", { redirect: "manual", headers: { cookie, accept: "text/html" } });
  assert.equal(answer.status, 303, "the cookie is worth nothing any more");
});

test("everything that was done is in the audit log", () => {
  const events = berth.cli(["events", "--num", "1000", "--format", "json"]).trim().split("\n").map((line) => JSON.parse(line));
  const kinds = new Set(events.map(({ kind }) => kind));
  for (const kind of ["sessions.begin", "ps.scale", "ps.stop", "sessions.end"]) assert.ok(kinds.has(kind), `${kind} of ${[...kinds]}`);
});

test("no page complained", () => assert.deepEqual(browser.complaints, []));
