// Asks about an uploaded clip. Text of clips, models and people is only ever set as text.
const LADDER = [0.02, 0.05, 0.1, 0.2, 0.5, 1];
const CLIPS = "ep.clips", KEY = "ep.key", MOST = 12;
const LOST = "The server cannot be reached. Check that it runs, and try again.";
const CUT = "The upload was cut off: the file is too large for the server, or the server cannot be reached.";

let model = null; // the card of /v1/models
let file = null; // { id, name } of the clip
let ratios = [];
let turns = []; // { question, answers, element }
let loading = null; // the AbortController of the clip that comes
let running = null; // and that of the answer

class Failure extends Error { // its message is for people
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// ---- the server ----

function keyed(headers = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

function refusal(status, text) {
  try {
    return new Failure(JSON.parse(text).error.message, status);
  } catch {
    return new Failure(`The server answered with status ${status}.`, status);
  }
}

async function api(path, options = {}) {
  const response = await fetch(path, { ...options, headers: keyed(options.headers) });
  if (!response.ok) throw refusal(response.status, await response.text());
  return response;
}

function upload(chosen, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(), form = new FormData(); // fetch reports no progress of uploads
    form.append("purpose", "user_data");
    form.append("file", chosen);
    request.open("POST", "v1/files");
    for (const [name, value] of Object.entries(keyed())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("load", () => (request.status === 200
      ? resolve(JSON.parse(request.responseText)) : reject(refusal(request.status, request.responseText))));
    request.addEventListener("error", () => reject(new Failure(CUT)));
    request.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

async function* events(response) { // server-sent events
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure(LOST);
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const data of parts.map((part) => part.replace(/^data: /, ""))) {
      if (data === "[DONE]") return;
      const one = JSON.parse(data);
      if (one.error) throw new Failure(one.error.message);
      yield one;
    }
  }
}

async function untilReady(signal) {
  for (;;) {
    const { status } = await (await fetch("health", { signal })).json();
    $("about").textContent = status === "loading" ? `${model.id} is loading …` : model.id;
    if (status === "ready") return;
    if (status !== "loading") throw new Failure("The server is shutting down.");
    await new Promise((resolve) => setTimeout(resolve, 1000));
    signal?.throwIfAborted();
  }
}

// Whether the work was done; its errors are shown.
async function done(work) {
  $("error").textContent = "";
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (error.status === 401) askForKey(sessionStorage.getItem(KEY) !== null);
    else $("error").textContent = error instanceof Failure ? error.message : LOST;
    if (!(error instanceof Failure || error instanceof TypeError)) console.error(error);
    return false;
  }
}

// ---- the key ----

function askForKey(wrong) {
  sessionStorage.removeItem(KEY);
  $("error").textContent = wrong ? "The API key is wrong. Enter another one." : "";
  $("about").textContent = "";
  $("entry").hidden = false;
  $("key").focus();
}

async function connect() {
  await done(async () => {
    [model] = (await (await api("v1/models")).json()).data;
    $("entry").hidden = true;
    $("source").hidden = false;
    if (!ratios.length) openKeep();
    listClips();
    checkClips();
    await untilReady();
  });
}

function openKeep() {
  const own = model.reducer === "full" ? 1 : model.keep;
  ratios = [...new Set([...LADDER, own])].sort((a, b) => a - b);
  openRatios(ratios, ratios.indexOf(own));
  showKeep();
}

// ---- the clip ----

function knownClips() {
  try {
    return JSON.parse(localStorage.getItem(CLIPS) ?? "[]").filter(({ id, name }) => id && name);
  } catch {
    return [];
  }
}

function rememberClips(clips) {
  localStorage.setItem(CLIPS, JSON.stringify(clips.slice(0, MOST)));
  listClips();
}

const forget = (id) => rememberClips(knownClips().filter((one) => one.id !== id));

function listClips() {
  const clips = knownClips();
  $("earlier").hidden = !clips.length;
  $("clips").replaceChildren(...clips.map((one) => {
    const item = element("li"), button = element("button", { type: "button", dir: "auto" }, one.name);
    button.addEventListener("click", () => bring((signal) => show(one, signal)));
    item.append(button);
    return item;
  }));
}

async function checkClips() { // those that the server no longer has are forgotten
  await Promise.all(knownClips().map(async ({ id }) => {
    const response = await fetch(`v1/files/${encodeURIComponent(id)}`, { headers: keyed() }).catch(() => null);
    if (response?.status === 404) forget(id);
  }));
}

function doing(text, share) {
  $("doing").textContent = text;
  if (share === undefined) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

async function bring(work) { // a clip onto the page
  loading?.abort();
  const own = loading = new AbortController();
  $("choose").hidden = true;
  $("work").hidden = false;
  const came = await done(() => work(own.signal));
  if (loading !== own) return; // yet another one comes
  loading = null;
  $("work").hidden = true;
  showChooser(!came && file === null);
  if (came) $("question").focus();
  else if (file === null) $("file").focus();
}

function send(chosen) {
  bring(async (signal) => {
    doing(`Uploading ${chosen.name} …`, 0);
    const { id } = await upload(chosen, signal, (share) => doing(
      share < 1 ? `Uploading ${chosen.name}: ${percent(Math.floor(100 * share) / 100)}` : `Checking ${chosen.name} …`, share));
    const one = { id, name: chosen.name };
    rememberClips([one, ...knownClips().filter((other) => other.id !== id)]);
    await show(one, signal);
  });
}

async function show(one, signal) {
  doing(`Reading and encoding ${one.name} …`);
  await untilReady(signal);
  let view;
  try {
    view = await (await api(`v1/files/${encodeURIComponent(one.id)}/view`, { signal })).json();
  } catch (error) {
    if (error.status === 404) forget(one.id);
    throw error;
  }
  file = one;
  $("name").textContent = one.name;
  document.title = `${one.name} – Ask a clip`;
  $("opened").hidden = $("talk").hidden = false;
  openClip(view);
  startOver();
}

function showChooser(open) {
  $("choose").hidden = !open;
  $("another").setAttribute("aria-expanded", open);
}

// ---- the conversation ----

function startOver() {
  running?.abort();
  running = null;
  turns = [];
  $("turns").replaceChildren();
  showChoice(NOTHING);
  showState();
}

function showState() {
  const busy = running !== null, last = turns.at(-1)?.answers.at(-1);
  $("turns").hidden = !turns.length;
  $("turns").setAttribute("aria-busy", busy);
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("fresh").hidden = busy || !turns.length;
  $("again").hidden = busy || !last || last.keep === keep();
  $("again").textContent = `Ask again, keeping ${named(keep())}`;
}

const keep = () => ratios[+$("keep").value];

function showKeep() {
  $("share").textContent = named(keep());
  $("keep").setAttribute("aria-valuetext", named(keep()));
  showState();
}

// The messages of earlier turns, and a question.
function messages(earlier, question) {
  const asked = [...earlier.flatMap((turn) => [
    { role: "user", content: [{ type: "text", text: turn.question }] },
    { role: "assistant", content: turn.answers.at(-1).text },
  ]), { role: "user", content: [{ type: "text", text: question }] }];
  asked[0].content.unshift({ type: "video_url", video_url: { url: file.id } });
  return asked;
}

function newTurn(question) {
  const turn = { question, answers: [], element: element("article", { class: "turn" }) };
  turn.element.append(element("h3", { class: "question", dir: "auto" }, question));
  $("turns").append(turn.element);
  turns.push(turn);
  return turn;
}

async function ask(question, turn) { // `turn`: the last one, to answer its question again
  const own = running = new AbortController();
  const earlier = turn ? turns.slice(0, -1) : [...turns];
  const answer = { text: "", keep: keep(), facts: null, usage: null, reason: "stopped" };
  const place = turn ?? newTurn(question);
  answer.element = element("div", { class: "answer busy" });
  answer.words = element("p", { class: "text", dir: "auto" });
  answer.element.append(answer.words);
  place.answers.push(answer);
  place.element.append(answer.element);
  showState();
  follow();
  const whole = await done(() => receive(answer, {
    ...{ model: model.id, messages: messages(earlier, question), stream: true, stream_options: { include_usage: true } },
    ...{ kept: true, keep: answer.keep, ...reducerAt(answer.keep) },
  }, own.signal));
  if (running === own) running = null;
  if (!turns.includes(place)) return; // the conversation is another one
  answer.element.classList.remove("busy");
  if (whole || answer.text) finish(answer);
  else drop(answer, place);
  showState();
  follow();
}

function reducerAt(ratio) { // all tokens are reducer `full`, which has no other ratio
  if (ratio === 1) return { reducer: "full" };
  return model.reducer === "full" ? { reducer: "auto" } : {};
}

async function receive(answer, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await api("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  for await (const { choices, usage, ep } of events(response)) {
    answer.text += choices[0]?.delta.content ?? "";
    answer.words.textContent = answer.text;
    answer.reason = choices[0]?.finish_reason ?? answer.reason;
    answer.facts = ep ?? answer.facts;
    answer.usage = usage ?? answer.usage;
    follow();
  }
}

function drop(answer, turn) { // nothing came: the question returns to its box
  turn.answers.pop();
  answer.element.remove();
  if (turn.answers.length) return;
  turns.pop();
  turn.element.remove();
  $("question").value ||= turn.question;
}

function follow() {
  $("turns").scrollTop = $("turns").scrollHeight;
}

// ---- an answer ----

function finish(answer) {
  if (!answer.text) answer.words.textContent = "(nothing)";
  if (!answer.facts) {
    answer.element.append(element("p", { class: "soft" }, "Stopped before its end."));
    return;
  }
  const { warnings, notes, evidence, no_evidence: reason } = answer.facts;
  const times = element("div", { class: "row", role: "group", "aria-label": "Evidence times" });
  times.append(element("span", { class: "soft" }, evidence ? "Evidence" : `Evidence: none. ${reason ?? ""}`));
  times.append(...(evidence ?? []).map((moment) => {
    const button = element("button", { type: "button" }, words(moment));
    button.addEventListener("click", () => {
      select(answer);
      seek(moment.start);
      $(frames.length ? "screen" : "track").scrollIntoView({ block: "nearest" });
    });
    return button;
  }));
  const toggle = element("button", { type: "button", class: "toggle" }, "Kept tokens");
  toggle.title = "Show the kept tokens of this answer on the clip";
  toggle.addEventListener("click", () => select(answer));
  const foot = element("div", { class: "row foot" });
  const statistics = element("details"), list = element("dl");
  list.append(...numbers(answer).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  statistics.append(element("summary", { class: "soft" }, "Statistics"), list);
  const remarks = element("ul");
  remarks.append(...[...warnings, ...notes].map((text) => element("li", {}, text)));
  if (warnings.length + notes.length) statistics.append(remarks);
  foot.append(statistics, toggle);
  answer.element.append(element("p", { class: "soft cost" }, cost(answer)), times, foot);
  select(answer);
}

const words = ({ start, end, share }) => `${start.toFixed(1)}–${end.toFixed(1)} s (${Math.round(100 * share)}\u00a0%)`;

function select(answer) { // its tokens onto the clip
  for (const one of turns.flatMap((turn) => turn.answers)) {
    one.element.classList.toggle("current", one === answer);
    one.element.querySelector(".toggle")?.setAttribute("aria-pressed", one === answer);
  }
  const { kept: [kept], evidence, no_evidence: reason } = answer.facts;
  const moments = evidence ?? [];
  showChoice({ kept, heat: null, budget: kept.over_time, moments, evidence: moments.map(words).join(", ") || `none: ${reason}` });
}

function counts(answer) {
  const details = answer.usage.prompt_tokens_details;
  return ["video", "image", "audio", "text"].map((kind) => [kind, details[`${kind}_tokens`]]).filter(([, n]) => n.before);
}

function cost(answer) {
  const each = counts(answer).filter(([kind]) => kind !== "text").map(([kind, n]) => `${kind} ${n.after} of ${n.before}`);
  const { time_s: spent, speedup } = answer.facts;
  const cut = answer.reason === "length" ? ["cut at the token limit"] : [];
  return [`kept ${each.join(", ")} tokens`, seconds(spent.total), `${speedup.estimated.toFixed(1)}\u00a0× faster (estimate)`, ...cut]
    .join(" · ");
}

function numbers(answer) {
  const { time_s: spent, reducer, keep: ratio, speedup } = answer.facts;
  const stages = ["decode", "prepare", "encode", "select", "prefill", "generate", "evidence"].filter((name) => spent[name] != null);
  return [
    ["reducer", `${reducer}, keep ${ratio}`],
    ...counts(answer).map(([name, n]) => [`${name} tokens`, `${n.before} → ${n.after}`]),
    ["answer", `${answer.usage.completion_tokens} tokens`],
    ["first token", `after ${seconds(spent.first_token)}`],
    ...stages.map((name) => [name, seconds(spent[name])]),
    ["speedup", `${speedup.estimated.toFixed(2)} × (estimate)`],
    ["clip", answer.usage.prompt_tokens_details.cached ? "from memory" : "encoded for this question"],
  ];
}

// ---- events ----

$("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  connect();
});
$("file").addEventListener("change", () => {
  if ($("file").files.length) send($("file").files[0]);
  $("file").value = "";
});
$("cancel").addEventListener("click", () => loading?.abort());
$("another").addEventListener("click", () => showChooser($("choose").hidden));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (name !== "dragleave") event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const [chosen] = event.dataTransfer.files;
  if (chosen && model && $("entry").hidden) send(chosen);
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  ask(question);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => {
  running?.abort();
  $("question").focus();
});
$("keep").addEventListener("input", showKeep);
$("again").addEventListener("click", () => ask(turns.at(-1).question, turns.at(-1)));
$("fresh").addEventListener("click", () => {
  startOver();
  $("question").focus();
});
document.querySelector("[value=heat]").closest("label").remove(); // answers of a server have no scores
connect();
