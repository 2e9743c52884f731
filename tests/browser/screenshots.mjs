// Makes the pictures of README and docs: `tests/browser/run --screenshots`. The crowd example stands in for a large platform,
// a real Berth shows a build, logs and a terminal.
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { Browser, PHONE, WIDE, until } from "./berth.mjs";

const images = path.resolve(import.meta.dirname ?? ".", "../../docs/images");
fs.mkdirSync(images, { recursive: true });
const crowd = spawn(process.env.BERTH_CROWD, ["127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
const base = await new Promise((resolve) => crowd.stdout.once("data", (line) => resolve(String(line).trim())));
const browser = await Browser.start();
try {
  const views = [
    ["apps", "/ui/apps", "light", WIDE],
    ["apps", "/ui/apps", "dark", WIDE],
    ["app", "/ui/apps/blog-011", "light", WIDE],
    ["app", "/ui/apps/blog-011", "dark", WIDE],
    ["nodes", "/ui/nodes", "light", WIDE],
    ["phone", "/ui/apps/blog-011", "light", PHONE],
  ];
  for (const [name, where, colorScheme, viewport] of views) {
    const page = await browser.visitor({ colorScheme, viewport });
    await page.goto(base + "/ui/sign-in");
    await page.getByLabel("Token").fill("any");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForURL("**/ui/apps");
    await page.goto(base + where);
    if (where.startsWith("/ui/apps/")) await until("the charts", async () => (await page.locator(".uplot canvas").count()) >= 6);
    await page.locator("main h1").waitFor();
    await page.screenshot({ path: path.join(images, `${name}-${colorScheme}.png`) });
    await page.context().close();
  }
} finally {
  await browser.stop();
  crowd.kill();
}
