// A terminal: xterm.js joined to a WebSocket of ours (src/pages/terminal/socket.rs says what passes).
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const form = at("terminal-form"), box = at("terminal-box");
  if (!form) return;
  const screen = at("terminal-screen"), state = at("terminal-state"), again = at("terminal-again"), end = at("terminal-end");
  const title = at("terminal-title"), reader = at("terminal-reader"), copy = at("terminal-copy");

  // Typed bytes in one message, and at most on their way: the program may be slow to take them.
  const PIECE = 16 << 10, TYPED = 256 << 10;
  // What was shown is told in steps, well below what may be on its way.
  const TELL = 64 << 10;
  let socket = null, last = null;

  // ---- Look.
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dark = { black: "#2b333b", red: "#ff8a80", green: "#5fd08a", yellow: "#e8b65a", blue: "#82b4ff", magenta: "#c9a8ff", cyan: "#5bbfd3", white: "#dfe5ea",
    brightBlack: "#8b97a3", brightRed: "#ffb0a8", brightGreen: "#8ee6ae", brightYellow: "#ffd88a", brightBlue: "#add0ff", brightMagenta: "#e0ccff", brightCyan: "#93e1f0", brightWhite: "#ffffff" };
  const light = { black: "#1b1f24", red: "#b3261e", green: "#1a6e37", yellow: "#85560a", blue: "#1f5fbf", magenta: "#7a3fc0", cyan: "#0b6577", white: "#6a737d",
    brightBlack: "#57606a", brightRed: "#d1352b", brightGreen: "#23874a", brightYellow: "#9a6700", brightBlue: "#2f74dd", brightMagenta: "#8250df", brightCyan: "#0f7f95", brightWhite: "#1b1f24" };
  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const theme = () => ({ ...(isDark() ? dark : light), background: style("--surface"), foreground: style("--text"), cursor: style("--accent"), cursorAccent: style("--surface"),
    selectionBackground: isDark() ? "#2f4f6b" : "#b7d7f5", scrollbarSliderBackground: style("--line"), scrollbarSliderHoverBackground: style("--dim"), scrollbarSliderActiveBackground: style("--dim") });

  let stored = "";
  try { stored = localStorage.getItem("berth-terminal-reader") || ""; } catch { /* nothing is stored here */ }
  reader.checked = stored === "1";
  const terminal = new Terminal({ fontFamily: style("--mono"), fontSize: 13, scrollback: 5000, cursorBlink: false, theme: theme(), minimumContrastRatio: 4.5, screenReaderMode: reader.checked });
  const fit = new FitAddon.FitAddon();
  terminal.loadAddon(fit);
  reader.addEventListener("change", () => {
    terminal.options.screenReaderMode = reader.checked;
    try { localStorage.setItem("berth-terminal-reader", reader.checked ? "1" : ""); } catch { /* then it is for this page */ }
  });
  const paint = () => { terminal.options.theme = theme(); };
  document.addEventListener("berth:theme", paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  const say = (text, tone) => { state.textContent = text; if (tone) state.dataset.tone = tone; else delete state.dataset.tone; };

  // ---- Keys that are not for the program.
  terminal.attachCustomKeyEventHandler((event) => {
    if (event.type !== "keydown" || !event.ctrlKey) return true;
    if ((event.key === "Escape" && event.shiftKey) || event.key === "F6") { event.preventDefault(); (end.hidden ? again : end).focus(); return false; }
    if (event.shiftKey && event.code === "KeyC") { event.preventDefault(); copied(); return false; }
    // The browser's own paste, which comes back as one bracketed paste where the program asks for that.
    if (event.shiftKey && event.code === "KeyV") return false;
    return true;
  });
  const copied = async () => {
    const lines = () => {
      const buffer = terminal.buffer.active, all = [];
      for (let row = 0; row < buffer.length; row++) all.push(buffer.getLine(row)?.translateToString(true) ?? "");
      return all.join("\n").replace(/\n+$/, "\n");
    };
    try { await navigator.clipboard.writeText(terminal.getSelection() || lines()); berth.toast(terminal.hasSelection() ? "Copied what is selected" : "Copied all of it"); }
    catch { berth.toast("The browser does not allow that; select and use its menu", true); }
  };
  copy.addEventListener("click", copied);

  // ---- Connection.
  const size = () => [terminal.rows, terminal.cols];
  const connect = (wanted) => {
    last = wanted;
    if (socket) socket.hang();
    const own = new WebSocket(new URL(form.dataset.socket, location.href.replace(/^http/, "ws")));
    own.binaryType = "arraybuffer";
    let queue = [], onTheirWay = 0, shown = 0, over = false;
    const send = (message) => { if (own.readyState === WebSocket.OPEN) own.send(message); };
    const flush = () => {
      while (queue.length && onTheirWay < TYPED) {
        const piece = queue.shift();
        onTheirWay += piece.length;
        send(piece);
      }
    };
    const type = (bytes) => {
      if (over) return;
      for (let from = 0; from < bytes.length; from += PIECE) queue.push(bytes.slice(from, from + PIECE));
      flush();
    };
    const finish = (text, tone) => {
      if (over) return;
      over = true;
      queue = [];
      if (socket !== own) return;
      say(text, tone);
      // Behind what was still to be shown.
      terminal.write("", () => terminal.write("\r\n\x1b[0m\x1b[?25l\x1b[2m[" + text.replace(/[\x00-\x1f\x7f-\x9f]/g, " ") + "]\x1b[0m\r\n"));
      again.hidden = false;
      end.hidden = true;
      if (screen.contains(document.activeElement)) again.focus();
    };
    own.type = type;
    own.resize = () => send(JSON.stringify({ size: size() }));
    own.hang = () => { finish("Disconnected.", ""); own.close(); };
    own.onopen = () => {
      say("Connected; nothing written yet", "busy");
      send(JSON.stringify({ ...wanted.request, size: size() }));
    };
    own.onmessage = (event) => {
      if (typeof event.data !== "string") {
        const bytes = new Uint8Array(event.data);
        if (state.dataset.tone !== "good") say("Connected", "good");
        terminal.write(bytes, () => {
          shown += bytes.length;
          if (shown >= TELL) { send(JSON.stringify({ seen: shown })); shown = 0; }
        });
        return;
      }
      const said = JSON.parse(event.data);
      if ("taken" in said) { onTheirWay -= said.taken; flush(); }
      if ("exit" in said) finish("It ended with exit code " + said.exit + ".", said.exit === 0 ? "" : "bad");
      if ("failed" in said) finish("That did not work: " + said.failed, "bad");
    };
    own.onclose = () => finish(own.began ? "The connection broke." : "It could not be connected.", "bad");
    own.addEventListener("open", () => { own.began = true; });
    socket = own;
    title.textContent = wanted.name;
    box.hidden = false;
    again.hidden = true;
    end.hidden = false;
    terminal.reset();
    if (!terminal.element) {
      terminal.open(screen);
      terminal.textarea?.setAttribute("aria-describedby", "terminal-keys");
      new ResizeObserver(() => { if (!box.hidden) fit.fit(); }).observe(screen);
    }
    fit.fit();
    say("Connecting…", "busy");
    terminal.focus();
  };
  const encoder = new TextEncoder();
  terminal.onData((text) => socket?.type(encoder.encode(text)));
  terminal.onBinary((text) => socket?.type(Uint8Array.from(text, (c) => c.charCodeAt(0) & 255)));
  terminal.onResize(() => socket?.resize());

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = new FormData(form), command = fields.get("command").trim();
    const enters = fields.get("where") === "enter";
    const chosen = at("terminal-container").selectedOptions[0];
    const request = enters ? { container: chosen.value, command } : { seconds: Number(fields.get("seconds")), command };
    connect({ container: enters, name: enters ? chosen.dataset.name : "A new container", request });
  });
  at("terminal-container").addEventListener("change", () => { form.elements.where.value = "enter"; });
  at("terminal-limit").addEventListener("change", () => { form.elements.where.value = "run"; });
  // A container that was replaced meanwhile has the same name and another id.
  again.addEventListener("click", () => {
    if (last?.container) connect({ ...last, request: { name: last.name, command: last.request.command } });
    else if (last) connect(last);
  });
  end.addEventListener("click", () => socket?.hang());
  // A page that is kept for going back must not keep a container.
  addEventListener("pagehide", () => socket?.hang());
})();
