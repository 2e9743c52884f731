// What every page does: stays as it is now, sends its forms, opens its dialogs, answers to keys.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const main = $("#main");

  // ---- Times: how long ago, the date when pointed at.
  const ago = (seconds) => {
    if (seconds < -5) return "in " + span(-seconds);
    return seconds < 5 ? "just now" : span(seconds) + " ago";
  };
  const span = (seconds) => {
    for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
      if (seconds >= length * 1.5 || (unit !== "d" && seconds >= length)) return Math.floor(seconds / length) + " " + unit;
    }
    return Math.floor(seconds) + " s";
  };
  const tell = (root = document) => {
    for (const time of $$("time[data-ago]", root)) {
      const at = new Date(time.getAttribute("datetime"));
      if (!time.title) time.title = at.toLocaleString();
      const text = ago((Date.now() - at) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tell, 5000);

  // ---- Filters: rows that have the words in their text.
  const filter = (input) => {
    const words = input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    const rows = $$(input.dataset.filters);
    for (const row of rows) {
      const text = (row.dataset.text || row.textContent).toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown++;
    }
    const none = $(`[data-none-for="${input.dataset.filters.split(" ")[0]}"]`);
    if (none) none.hidden = shown > 0 || rows.length === 0;
  };
  const filterAll = () => $$("input[data-filters]").forEach(filter);

  // ---- Commands that name this host.
  const fill = () => {
    for (const place of $$("[data-fill-host]")) {
      const line = $("code", place);
      const text = line.textContent.replace("HOST", location.hostname);
      if (line.textContent !== text) line.textContent = text;
      $("[data-copy]", place).dataset.copy = text;
    }
  };

  const dress = () => {
    tell();
    filterAll();
    fill();
    document.dispatchEvent(new CustomEvent("berth:page"));
  };

  // ---- Live: the server sends the page's contents whenever they would be others.
  const stale = $("#stale");
  const STALE_AFTER = 15000;
  let source = null, heard = Date.now(), trouble = "";
  const hear = () => { heard = Date.now(); };
  const mark = () => {
    const silent = source && Date.now() - heard > STALE_AFTER;
    const text = trouble || (silent ? `Not connected since ${new Date(heard).toLocaleTimeString()}: what you see may be old. Trying again…` : "");
    if (!stale) return;
    if (stale.textContent !== text) stale.textContent = text;
    stale.hidden = !text;
  };
  const morph = (html) => {
    Idiomorph.morph(main, html, {
      morphStyle: "innerHTML",
      ignoreActiveValue: true,
      callbacks: {
        beforeNodeMorphed: (old, fresh) => {
          if (old.nodeType !== Node.ELEMENT_NODE) return true;
          if (old.isEqualNode(fresh)) return false;
          if (old.hasAttribute("data-keep") || (old.tagName === "DIALOG" && old.open)) return false;
          // What a person opened stays open, what was typed stays typed.
          if (old.tagName === "DETAILS" && old.open) fresh.setAttribute("open", "");
          if (old.tagName === "TIME" && old.getAttribute("datetime") === fresh.getAttribute("datetime")) return false;
          if (old.matches("input, textarea, select") && old.dataset.typed) return false;
          return true;
        },
      },
    });
    dress();
  };
  const listen = () => {
    if (source || !main || !main.hasAttribute("data-live") || document.hidden) return;
    const url = new URL(location.href);
    url.searchParams.set("live", "1");
    hear();
    source = new EventSource(url);
    source.addEventListener("main", (event) => { hear(); trouble = ""; morph(event.data); mark(); });
    source.addEventListener("beat", () => { hear(); trouble = ""; mark(); });
    source.addEventListener("trouble", (event) => { hear(); trouble = "Not up to date: " + event.data; mark(); });
    source.addEventListener("signed-out", () => location.reload());
    source.addEventListener("again", () => { again(); });
    source.onerror = () => { if (source && source.readyState === EventSource.CLOSED) again(); };
  };
  const hush = () => { if (source) source.close(); source = null; };
  let waiting = 0;
  const again = () => {
    hush();
    clearTimeout(waiting);
    const since = heard;
    waiting = setTimeout(() => { listen(); heard = since; mark(); }, 2000);
    if (Date.now() - heard > STALE_AFTER) mark();
  };
  setInterval(mark, 1000);
  // A page nobody looks at asks for nothing: browsers have six connections for all tabs together.
  document.addEventListener("visibilitychange", () => { if (document.hidden) hush(); else listen(); });
  addEventListener("pagehide", hush);
  addEventListener("pageshow", listen);
  document.addEventListener("input", (event) => {
    if (event.target.matches("input, textarea, select")) event.target.dataset.typed = "1";
    if (event.target.matches("input[data-filters]")) filter(event.target);
  });

  // ---- A page that could not be made for a passing reason: it is asked for until it can.
  const retry = async () => {
    const answer = document.hidden ? null : await fetch(location.href, { method: "HEAD" }).catch(() => null);
    if (answer && answer.status < 500 && answer.status !== 429) location.reload();
    else setTimeout(retry, 3000);
  };
  if (main?.hasAttribute("data-again")) setTimeout(retry, 3000);

  // ---- Forms: sent by this script, progress shown as it comes.
  const toast = (text, bad) => {
    const box = document.createElement("div");
    box.className = bad ? "toast bad" : "toast";
    box.textContent = text;
    $("#toasts").append(box);
    setTimeout(() => box.remove(), bad ? 12000 : 4000);
  };
  const size = (bytes) => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  const marks = { step: "-----> ", section: "=====> ", detail: "       ", warning: " !     " };
  const send = async (form, button) => {
    // A file is the whole body; what else the form has goes into the address.
    const field = $("input[data-uploads]", form), file = field?.files[0];
    const fields = new URLSearchParams(new FormData(form, button));
    const dialog = form.closest("dialog");
    const title = (dialog ? $("h2", dialog) : button)?.textContent?.trim() || "Working";
    const buttons = $$("button", form);
    buttons.forEach((one) => { one.disabled = true; });
    form.setAttribute("aria-busy", "true");
    $("p.wrong[role]", form)?.remove();
    const progress = $("#progress"), lines = $("#progress-lines"), end = $("#progress-end");
    let shown = false, last = null;
    const show = (line) => {
      if (!shown) {
        shown = true;
        if (dialog) dialog.close();
        $("#progress-title").textContent = title;
        lines.textContent = "";
        end.textContent = "Working…";
        progress.showModal();
      }
      const down = lines.scrollTop + lines.clientHeight > lines.scrollHeight - 30;
      // Colours of build tools are for terminals (ECMA-48 §5.4).
      lines.append(line.replace(/\x1b\[[0-?]*[ -/]*[@-~]/g, "").replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "") + "\n");
      if (down) lines.scrollTop = lines.scrollHeight;
    };
    try {
      if (file && file.size > Number(field.dataset.uploads)) throw new Error(`${file.name} is too long: ${size(file.size)}`);
      if (file) show(`${marks.step}Sending ${file.name}, ${size(file.size)}`);
      const accept = { accept: "application/x-ndjson" };
      const answer = await fetch(file ? `${form.action}?${fields}` : form.action, {
        method: "POST", body: file || fields, headers: file ? { ...accept, "content-type": "application/octet-stream" } : accept, redirect: "error",
      });
      if (answer.status === 401) { location.reload(); return; }
      if (!(answer.headers.get("content-type") || "").includes("ndjson")) throw new Error(`the answer was ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      const calm = form.hasAttribute("data-calm");
      for (;;) {
        const { value, done } = await reader.read();
        rest += value || "";
        const parts = rest.split("\n");
        rest = parts.pop();
        for (const part of parts) {
          if (!part) continue;
          const event = JSON.parse(part);
          if (event.event === "done" || event.event === "failed") last = event;
          else if (!calm || event.event === "warning") show((marks[event.event] || "") + event.text);
        }
        if (done) break;
      }
      if (last && !last.then) last.then = answer.headers.get("berth-then");
      if (!last) last = { event: "failed", error: { message: "the connection broke; the operation may still go on" } };
    } catch (error) {
      last = { event: "failed", error: { message: String(error.message || error) } };
    } finally {
      buttons.forEach((one) => { one.disabled = false; });
      form.removeAttribute("aria-busy");
    }
    if (last.event === "failed") {
      if (last.error.code === "unauthorized") { location.reload(); return; }
      if (shown) { show(" !     " + last.error.message); end.textContent = "That did not work."; }
      else if (dialog && dialog.open) {
        let wrong = $(".wrong", form);
        if (!wrong) { wrong = document.createElement("p"); wrong.className = "wrong"; wrong.setAttribute("role", "alert"); $(".buttons", form).before(wrong); }
        wrong.textContent = last.error.message;
      } else toast(last.error.message, true);
      return;
    }
    $$("[data-typed]", form).forEach((field) => { delete field.dataset.typed; });
    const next = last.then && new URL(last.then, location.href);
    if (shown) {
      end.textContent = "Done.";
      if (next && next.pathname !== location.pathname) progress.addEventListener("close", () => { location.href = next; }, { once: true });
      return;
    }
    if (dialog) { dialog.close(); form.reset(); }
    if (next && next.pathname !== location.pathname) { location.href = next; return; }
    toast(form.dataset.said || title + ": done");
    form.hasAttribute("data-reload") ? location.reload() : soon();
  };
  // What a form changed is seen at once, not at the next look.
  const soon = () => { hush(); listen(); };
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("form[data-action]")) {
      if (form.method === "post") hush(); // the browser goes on by itself; signing out must not be overtaken by the stream that ends
      return;
    }
    event.preventDefault();
    if (!form.hasAttribute("aria-busy")) send(form, event.submitter);
  });

  // ---- What a button asks for: text or HTML of ours, put where it says (`data-into`); with the fields of its form (`data-sends`).
  const ask = async (button) => {
    const place = document.getElementById(button.dataset.into), dialog = place.closest("dialog");
    const press = (on) => {
      const word = on ? "Hide" : "Show", label = button.getAttribute("aria-label");
      button.setAttribute("aria-pressed", String(on));
      button.textContent = word;
      if (label) button.setAttribute("aria-label", label.replace(/^(Show|Hide)/, word));
    };
    const isField = "value" in place;
    if (button.getAttribute("aria-pressed") === "true") { place.textContent = place.dataset.mask ?? ""; press(false); return; }
    const sent = "sends" in button.dataset ? { method: "POST", body: new URLSearchParams(new FormData(button.form)) } : {};
    // Who asks later is answered: an earlier answer that comes late is not shown.
    const turn = String(Math.random());
    place.dataset.turn = turn;
    if (isField) { place.value = ""; place.readOnly = true; }
    // What was asked for is on the page as long as it is looked at.
    dialog?.addEventListener("close", () => { if (isField) { place.value = ""; place.readOnly = false; } else place.textContent = ""; delete place.dataset.turn; }, { once: true });
    let text = "", wrong = "";
    try {
      const answer = await fetch(button.dataset.asks, { ...sent, redirect: "error" });
      if (answer.status === 401) { location.reload(); return; }
      text = await answer.text();
      const isHtml = (answer.headers.get("content-type") || "").includes("html");
      if (!answer.ok) wrong = isHtml ? `the answer was ${answer.status}` : text;
      else if (place.dataset.turn === turn && isHtml && !isField) {
        place.innerHTML = text;
        tell(place);
        if (button.hasAttribute("aria-pressed")) press(true);
        return;
      }
    } catch (error) { wrong = String(error.message || error); }
    if (place.dataset.turn !== turn) return;
    if (isField) place.readOnly = false;
    if (wrong) toast(wrong, true);
    else if (isField) place.value = text;
    else { place.textContent = text; if (button.hasAttribute("aria-pressed")) press(true); }
  };
  // A file's text goes into a field.
  document.addEventListener("change", async (event) => {
    const field = event.target;
    if (!field.dataset.reads || !field.files?.[0]) return;
    if (field.files[0].size > 1 << 20) { toast("That file has more than 1 MiB.", true); return; }
    const place = document.getElementById(field.dataset.reads);
    place.value = await field.files[0].text();
    place.dataset.typed = "1";
  });

  // ---- Clicks.
  document.addEventListener("click", async (event) => {
    const target = event.target.closest("button, [data-opens]");
    if (!target) {
      // A click beside an open dialog closes it.
      if (event.target.tagName === "DIALOG" && event.target.open && event.target.id !== "progress") event.target.close();
      return;
    }
    if (target.dataset.opens) {
      const dialog = document.getElementById(target.dataset.opens);
      if (dialog) {
        for (const [key, value] of Object.entries(target.dataset)) {
          if (!key.startsWith("with")) continue;
          const name = key.slice(4).toLowerCase();
          $$(`[name="${name}"]`, dialog).forEach((field) => { field.value = value; });
          $$(`[data-shows="${name}"]`, dialog).forEach((place) => { place.textContent = value; });
        }
        $("p.wrong[role]", dialog)?.remove();
        dialog.showModal();
      }
    }
    if (target.dataset.asks) ask(target);
    if ("closes" in target.dataset) target.closest("dialog").close();
    if ("copy" in target.dataset) {
      const words = target.textContent;
      try { await navigator.clipboard.writeText(target.dataset.copy); target.textContent = "Copied"; }
      catch { target.textContent = "Select and copy"; }
      setTimeout(() => { target.textContent = words; }, 1600);
    }
    if ("reveal" in target.dataset) {
      const field = document.getElementById(target.dataset.reveal);
      const hidden = field.type === "password";
      field.type = hidden ? "text" : "password";
      target.textContent = hidden ? "Hide" : "Show";
      target.setAttribute("aria-pressed", String(hidden));
    }
    if (target.dataset.setTheme) {
      const theme = target.dataset.setTheme;
      document.cookie = `berth_theme=${theme}; Path=/ui; Max-Age=31536000; SameSite=Strict`;
      if (theme === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
      $$("[data-set-theme]").forEach((one) => one.setAttribute("aria-pressed", String(one === target)));
      document.dispatchEvent(new CustomEvent("berth:theme"));
    }
    if ("menu" in target.dataset) {
      const open = $("#places").classList.toggle("open");
      target.setAttribute("aria-expanded", String(open));
    }
  });

  // ---- Keys.
  let led = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.matches("input, textarea, select, [contenteditable], .xterm *") || $("dialog[open]")) {
      if (event.key === "Escape" && event.target.matches("[data-search]")) event.target.blur();
      return;
    }
    if (Date.now() - led < 1200) {
      led = 0;
      const place = $(`#places a[data-key="${CSS.escape(event.key)}"]`);
      if (place) { event.preventDefault(); place.click(); }
      return;
    }
    if (event.key === "g") led = Date.now();
    else if (event.key === "/") { const search = $("[data-search]"); if (search) { event.preventDefault(); search.focus(); search.select(); } }
    else if (event.key === "?") $("#keys")?.showModal();
    else if (/^[1-9]$/.test(event.key)) $$(".tabs a")[event.key - 1]?.click();
  });

  $(".tabs [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
  window.berth = { $, $$, toast, tell };
  dress();
  listen();
})();
