// Lines that go on: the log of an app (#log), what a build says (#build). Text gets into the page by textContent alone.
"use strict";
(() => {
  const { $ } = window.berth;
  const MAX_LINES = 5000, MAX_CHARS = 16e6, BLOCK = 200; // of the page; of a block that is laid out, or left out, as one
  const LONG = 4000; // characters of a line that are shown at first
  const PER_FRAME = 1000;
  const SILENT = 30000; // the server says something every 10 s

  // ---- Text without orders to a terminal: colours as classes, the rest written out. As `plain` in pages/logs/text.rs.
  const ORDER = /\x1b\[([0-9;:]{0,32})m|[\0-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;
  const written = (c) => {
    const code = c.charCodeAt(0), hex = code.toString(16).padStart(2, "0");
    return c === "\r" ? "\\r" : c === "\n" ? "\\n" : code < 256 ? "\\x" + hex : `\\u{${hex}}`;
  };
  const plain = (raw) => {
    if (raw.endsWith("\r")) raw = raw.slice(0, -1);
    let text = "", at = 0, style = {}, runs = [];
    for (const found of raw.matchAll(ORDER)) {
      text += raw.slice(at, found.index);
      at = found.index + found[0].length;
      if (found[1] !== undefined) style = restyle(style, found[1]);
      else { runs.push([text.length, "t-out"]); text += written(found[0]); }
      runs.push([text.length, classes(style)]);
    }
    return { text: text + raw.slice(at), runs };
  };
  const restyle = (style, codes) => {
    style = { ...style };
    const list = codes.split(/[;:]/).map(Number);
    for (let i = 0; i < list.length; i++) {
      const code = list[i];
      if (code === 0) style = {};
      else if (code === 1) style.bold = true;
      else if (code === 2) style.faint = true;
      else if (code === 3) style.italic = true;
      else if (code === 4) style.under = true;
      else if (code === 22) style.bold = style.faint = false;
      else if (code === 23) style.italic = false;
      else if (code === 24) style.under = false;
      else if (code >= 30 && code <= 37) style.colour = code - 30;
      else if (code >= 90 && code <= 97) style.colour = code - 90;
      else if (code === 39) style.colour = undefined;
      else if (code === 38 || code === 48) {
        const many = list[i + 1] === 5 ? 2 : 4;
        if (code === 38) style.colour = many === 2 && list[i + 2] < 16 ? list[i + 2] % 8 : undefined;
        i += many;
      }
    }
    return style;
  };
  const classes = (style) => ["bold", "faint", "italic", "under"].filter((name) => style[name]).map((name) => "t-" + name)
    .concat(style.colour === undefined ? [] : "t-" + style.colour).join(" ");

  // A line's text into its place, what is searched for marked. Whether it was found.
  const paint = (place, { text, runs }, find) => {
    const marks = [];
    if (find) for (const found of text.matchAll(find)) { marks.push([found.index, found.index + found[0].length]); if (marks.length === 100) break; }
    if (!runs.length && !marks.length) { place.textContent = text; return false; }
    const edges = [...new Set([0, text.length, ...runs.map(([from]) => from), ...marks.flat()])].sort((a, b) => a - b);
    const parts = [];
    let run = -1, mark = 0;
    for (let i = 0; i + 1 < edges.length; i++) {
      const [from, to] = [edges[i], edges[i + 1]];
      while (run + 1 < runs.length && runs[run + 1][0] <= from) run++;
      while (mark < marks.length && marks[mark][1] <= from) mark++;
      const part = document.createElement(mark < marks.length && marks[mark][0] <= from ? "mark" : "span");
      if (run >= 0 && runs[run][1]) part.className = runs[run][1];
      part.textContent = text.slice(from, to);
      parts.push(part);
    }
    place.replaceChildren(...parts);
    return marks.length > 0;
  };

  // ---- The screen: rows in blocks, the oldest block goes when there are too many.
  const screen = () => {
    const box = $("#log-lines"), none = $("#log-none"), end = $("#log-end"), found = $("#log-found"), search = $("#log-search");
    const rows = box.getElementsByClassName("line"), hits = box.getElementsByClassName("hit");
    let follows = true, last = 0, count = 0, chars = 0, find = null, unseen = 0, queue = [], frame = 0, held = false, tell = () => {}, current = null;

    const toEnd = () => { follows = true; unseen = 0; box.scrollTop = box.scrollHeight; last = box.scrollTop; shown(); };
    const shown = () => {
      end.textContent = unseen ? `To the end (${unseen.toLocaleString()} new)` : "To the end";
      end.hidden = follows;
      none.hidden = count > 0;
      const place = current && find ? [...hits].indexOf(current) + 1 : 0;
      const lines = `${hits.length.toLocaleString()} ${hits.length === 1 ? "line" : "lines"}`;
      const text = find ? (hits.length ? (place ? place.toLocaleString() + " of " : "") + lines : "no line has it") : "";
      if (found.textContent !== text) found.textContent = text;
    };
    // Only who scrolls up leaves the end: rows that come, go or get higher move the end, not the person. That somebody begins
    // to scroll up is known before anything moved, so that rows which come meanwhile do not pull back.
    const near = () => box.scrollTop + box.clientHeight >= box.scrollHeight - 30;
    const leave = () => { if (box.scrollHeight > box.clientHeight) { follows = false; shown(); } };
    box.addEventListener("scroll", () => {
      const up = box.scrollTop < last - 1;
      if (!near()) { if (up) follows = false; } else if (!up) follows = true;
      if (follows) unseen = 0;
      last = box.scrollTop;
      shown();
    }, { passive: true });
    let finger = 0;
    box.addEventListener("wheel", (event) => { if (event.deltaY < 0) leave(); }, { passive: true });
    box.addEventListener("touchstart", (event) => { finger = event.touches[0].clientY; }, { passive: true });
    box.addEventListener("touchmove", (event) => { if (event.touches[0].clientY > finger) leave(); }, { passive: true });
    box.addEventListener("keydown", (event) => { if (["ArrowUp", "PageUp", "Home"].includes(event.key)) leave(); });
    // The scroll bar belongs to the box, what is shown does not.
    box.addEventListener("pointerdown", (event) => { if (event.target === box && event.offsetX > box.clientWidth) leave(); });
    box.addEventListener("pointerup", () => { if (near()) toEnd(); });
    end.addEventListener("click", () => { toEnd(); box.focus({ preventScroll: true }); });

    const dress = (row) => {
      const { raw, place, open } = row.own;
      const cut = !open && raw.length > LONG;
      row.classList.toggle("hit", paint(place, plain(cut ? raw.slice(0, LONG) : raw), find));
      if (!cut) return;
      const more = document.createElement("button");
      more.type = "button";
      more.className = "link";
      more.textContent = `… ${(raw.length - LONG).toLocaleString()} more characters`;
      more.addEventListener("click", () => { row.own.open = true; dress(row); });
      place.append(" ", more);
    };
    const put = ({ raw, front, className }) => {
      let block = box.lastElementChild;
      if (!block || block === none || block.childElementCount >= BLOCK) {
        block = document.createElement("div");
        block.className = "block";
        block.chars = 0;
        box.append(block);
      }
      const row = document.createElement("div"), place = document.createElement("span");
      row.className = "line " + (className || "");
      place.className = "said";
      row.append(...(front || []), place);
      row.own = { raw, place, open: false };
      dress(row);
      block.append(row);
      block.chars += raw.length;
      chars += raw.length;
      count++;
    };
    const trim = () => {
      for (let block = none.nextElementSibling; block && block !== box.lastElementChild && (count > MAX_LINES || chars > MAX_CHARS); block = none.nextElementSibling) {
        count -= block.childElementCount;
        chars -= block.chars;
        block.remove();
      }
    };
    const draw = () => {
      frame = 0;
      if (held) return tell(queue.length);
      if (queue.length > MAX_LINES) queue = queue.slice(-MAX_LINES);
      const some = queue.splice(0, PER_FRAME);
      some.forEach(put);
      trim();
      if (follows) { box.scrollTop = box.scrollHeight; last = box.scrollTop; } else unseen += some.length;
      shown();
      if (queue.length) frame = requestAnimationFrame(draw);
    };
    const wake = () => { frame ||= requestAnimationFrame(draw); };

    // Search: marks what is there and what comes; Enter goes from one line to the next.
    let typed = 0;
    const look = () => {
      clearTimeout(typed);
      typed = 0;
      const words = search.value;
      find = words ? new RegExp(words.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"), "gi") : null;
      current?.classList.remove("at");
      current = null;
      for (const row of [...rows]) if (find || row.classList.contains("hit")) dress(row);
      shown();
    };
    const step = (by) => {
      const all = [...hits];
      if (!all.length) return;
      const now = all.indexOf(current);
      current?.classList.remove("at");
      current = all[now < 0 ? (by > 0 ? 0 : all.length - 1) : (now + by + all.length) % all.length];
      current.classList.add("at");
      follows = false;
      // Only here: the window stays where it is.
      box.scrollTop += current.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
      last = box.scrollTop;
      shown();
    };
    search.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(look, 150); });
    search.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (typed) look();
      step(event.shiftKey ? -1 : 1);
    });
    $("#log-next").addEventListener("click", () => step(1));
    $("#log-before").addEventListener("click", () => step(-1));

    // What was chosen stays so in this browser.
    for (const [id, name] of [["#log-wrap", "no-wrap"], ["#log-times", "no-times"]]) {
      const tick = $(id);
      try { tick.checked = localStorage.getItem("berth." + name) !== "1"; } catch { /* not allowed: then it is as it comes */ }
      const set = () => { box.classList.toggle(name, !tick.checked); if (follows) toEnd(); };
      tick.addEventListener("change", () => { set(); try { localStorage.setItem("berth." + name, tick.checked ? "0" : "1"); } catch { /* as above */ } });
      set();
    }

    // Names have one width, so that what they say stands in line.
    let widest = 0;
    const widen = (length) => { if (length > widest) { widest = length; box.style.setProperty("--who", Math.min(length, 20) + "ch"); } };
    const clear = () => {
      queue = []; count = chars = unseen = 0; follows = true;
      while (none.nextElementSibling) none.nextElementSibling.remove();
      shown();
    };
    return {
      clear, widen,
      say: (text) => { none.textContent = text || none.dataset.words; },
      quiet: () => { none.hidden = count + queue.length > 0; },
      add: (line) => {
        queue.push(line);
        // Held or late: older ones would be gone as soon as they were shown.
        if (queue.length > 2 * MAX_LINES) queue = queue.slice(-MAX_LINES);
        wake();
      },
      hold: (on, said) => { held = on; tell = said || (() => {}); wake(); },
    };
  };

  // ---- Reading lines of JSON, again and again until `take` says that it was the last.
  const tail = ({ url, take, say, isOver = () => false }) => {
    let stopper = null, timer = 0, pause = 0, over = false, missing = "";
    const stop = () => { clearTimeout(timer); const old = stopper; stopper = null; old?.abort(); };
    const start = async () => {
      stop();
      if (over) return;
      if (document.hidden) return say("idle", "waits while nobody looks");
      const own = stopper = new AbortController();
      let why = "the stream ended", heard = Date.now(), refused = 0;
      const watch = setInterval(() => { if (Date.now() - heard > SILENT) { why = "nothing was heard for a while"; own.abort(); } }, 5000);
      if (!missing) say("connecting", "");
      try {
        const answer = await fetch(url(), { signal: own.signal, redirect: "error", cache: "no-store" });
        if (answer.status === 401) return location.reload();
        if (!answer.ok) {
          // Words for a script are text; a page says that the server is not itself just now.
          refused = answer.status;
          const isText = (answer.headers.get("content-type") || "").startsWith("text/plain");
          throw new Error(isText ? (await answer.text()).slice(0, 500) : "the platform does not answer");
        }
        heard = Date.now();
        say("live", missing = "");
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let rest = ""; ;) {
          const { value, done } = await reader.read();
          if (own !== stopper) return;
          if (done) { over ||= isOver(); break; }
          heard = Date.now();
          pause = 0;
          const parts = (rest + value).split("\n");
          rest = parts.pop();
          for (const part of parts) if (part && take(JSON.parse(part))) over = true;
        }
      } catch (error) {
        if (!own.signal.aborted || refused) why = refused ? error.message : "the server cannot be reached";
      } finally { clearInterval(watch); }
      if (own !== stopper) return;
      if (over) return say("over", "");
      stopper = null;
      // What was asked for is wrong: the same question gets the same answer.
      if (refused === 400) return say("refused", why);
      pause = Math.min(pause ? pause * 2 : 1000, refused === 404 ? 60000 : 8000);
      say("broken", missing = why);
      timer = setTimeout(start, pause);
    };
    document.addEventListener("visibilitychange", () => { if (document.hidden) { stop(); if (!over) say("idle", ""); } else start(); });
    addEventListener("pagehide", stop);
    addEventListener("pageshow", (event) => { if (event.persisted) start(); });
    return { start, stop };
  };

  // ---- The log of an app.
  const logOf = (root) => {
    const view = screen();
    const state = $("#log-state"), said = $("#log-said"), wrong = $("#log-wrong"), pause = $("#log-pause");
    const source = $("#log-source"), back = $("#log-back"), grep = $("#log-grep"), get = $("#log-download");
    let link = ["connecting", ""], paused = false, held = 0, asked = {};

    const tones = { live: "good", connecting: "busy", idle: "idle", broken: "bad", refused: "bad" };
    const words = { broken: "not connected", idle: "waiting" };
    const show = () => {
      const [now, why] = link;
      const [text, tone] = paused ? ["paused", "warn"] : [words[now] || now, tones[now]];
      if (state.textContent !== text) state.textContent = text;
      state.dataset.tone = tone;
      const more = [];
      if (paused) more.push(held.toLocaleString() + (held >= MAX_LINES ? " or more" : "") + " held");
      if (paused && now === "broken") more.push("not connected");
      if (now === "broken") more.push(why + "; trying again");
      said.textContent = said.title = more.join(" · ");
      wrong.hidden = now !== "refused";
      wrong.textContent = now === "refused" ? why : "";
      if (now === "refused") view.say(" ");
      if (now === "live") view.quiet();
    };

    // A colour for each process type, in the order they are met.
    const hues = new Map();
    const hue = (process) => { if (!hues.has(process)) hues.set(process, hues.size % 6); return hues.get(process); };
    const known = () => new Set([...source.options].map((option) => option.value));
    const offer = (names) => {
      const there = known();
      for (const name of names) {
        if (!name || there.has(name)) continue;
        const option = new Option(name, name);
        source.add(option, [...source.options].find((other) => other.value && other.value > name) || null);
      }
    };
    const offerThose = () => {
      const names = ($("#log-sources")?.dataset.sources || "").split(" ").filter(Boolean);
      names.forEach((name) => hue(name.split(".")[0]));
      offer(names);
    };
    document.addEventListener("berth:page", offerThose);

    const two = (number) => String(number).padStart(2, "0");
    let today = "";
    const stamp = (us) => {
      const at = new Date(us / 1000);
      const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
      const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
      return { full: `${day} ${time}`, short: day === today ? time : `${day.slice(5)} ${time}` };
    };
    const part = (tag, className, text, title) => {
      const made = document.createElement(tag);
      made.className = className;
      made.textContent = text;
      if (title) made.title = title;
      return made;
    };
    const met = new Set();
    const put = (line) => {
      const name = `${line.process}.${line.ordinal}`, at = stamp(line.at_us);
      if (!met.has(name)) { met.add(name); offer([line.process, name]); view.widen(name.length); }
      const who = part("b", "who hue-" + hue(line.process), name, line.container);
      view.add({ raw: line.text, front: [part("span", "when", at.short, at.full), who], className: line.stream === "stdout" ? "" : "from-" + line.stream });
    };

    // After a break the last two seconds are asked for again (nodes do not speak in order), and what was had is left out: as
    // often as it was had, for a program may write the same line twice within a microsecond.
    const AGAIN = 2e6;
    let recent = [], newest = 0, had = null, first = false;
    const keyOf = (line) => `${line.at_us} ${line.container} ${line.stream} ${line.text.length} ${line.text.slice(0, 80)}`;
    const from = () => Math.ceil(Math.max(newest - AGAIN, recent[0]?.[0] ?? 0) / 1000);
    const prune = () => { recent.sort((a, b) => a[0] - b[0]); recent = recent.filter(([at]) => at >= newest - AGAIN).slice(-20000); };
    const take = (line) => {
      const key = keyOf(line);
      if (had) {
        const times = had.get(key);
        if (times) { had.set(key, times - 1); first = false; return; }
        if (first) { first = false; view.add({ raw: "Lines may be missing here: there were too many while this was not connected.", className: "gap" }); }
      }
      recent.push([line.at_us, key]);
      newest = Math.max(newest, line.at_us);
      if (recent.length >= 40000) prune();
      put(line);
    };
    const query = () => {
      const all = new URLSearchParams();
      const [process, ordinal] = (asked.source || "").split(/\.(?=\d+$)/);
      for (const [name, value] of Object.entries({ process, ordinal, grep: asked.grep, lines: asked.lines })) if (value) all.set(name, value);
      return all;
    };
    const url = () => {
      today = stamp(Date.now() * 1000).full.slice(0, 10);
      const all = query();
      had = null;
      if (recent.length) {
        prune();
        const since = from();
        had = new Map();
        for (const [at, key] of recent) if (at >= since * 1000) had.set(key, (had.get(key) || 0) + 1);
        first = had.size > 0;
        all.set("since", since);
        all.set("lines", recent.length + MAX_LINES);
      }
      return root.dataset.log + "?" + all;
    };
    const reading = tail({ url, take, say: (now, why) => { link = [now, why]; show(); } });

    // What is asked for is in the address, so that it can be kept and passed on.
    const ask = () => {
      asked = { source: source.value, lines: back.value, grep: grep.value };
      const address = new URL(location.href), all = query();
      get.href = get.getAttribute("href").split("?")[0] + "?" + all;
      address.search = all;
      history.replaceState(null, "", address);
      recent = []; newest = 0;
      view.say(asked.grep ? "No line matches." : "");
      view.clear();
      reading.start();
    };
    const resume = (on) => {
      paused = on;
      held = 0;
      pause.textContent = on ? "Go on" : "Pause";
      pause.setAttribute("aria-pressed", String(on));
      view.hold(on, (count) => { held = count; show(); });
      show();
    };
    pause.addEventListener("click", () => resume(!paused));
    $("#log-clear").addEventListener("click", () => { view.say("Cleared. What comes shows here."); view.clear(); view.quiet(); held = 0; show(); });
    source.addEventListener("change", ask);
    back.addEventListener("change", ask);
    $("#log-ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
    offerThose();
    ask();
  };

  // ---- What a build says.
  const buildOf = (root) => {
    const view = screen(), wrong = $("#log-wrong");
    let had = 0, skip = 0;
    const put = (raw, className) => raw.split("\n").forEach((line) => view.add({ raw: line, className }));
    const take = (line) => {
      if (skip > 0) { skip--; return false; }
      had++;
      if (line.event === "done") { put("Done.", "p-done"); return true; }
      if (line.event === "failed") { put(line.error.message, "p-failed"); return true; }
      put(line.text, "p-" + line.event);
      return false;
    };
    const say = (now, why) => {
      const text = now === "broken" ? `Not connected: ${why}. Trying again.` : now === "refused" ? why : "";
      wrong.textContent = text;
      wrong.hidden = !text;
      if (now === "live" || now === "over") view.quiet();
    };
    // The API gives all of it each time; an old one may lack its last line.
    const url = () => { skip = had; return root.dataset.build; };
    tail({ url, take, say, isOver: () => $("#build-over")?.hasAttribute("data-over") }).start();
  };

  if ($("#log")) logOf($("#log"));
  if ($("#build")) buildOf($("#build"));
})();
