"use strict";
// Draws the page's data and computes none of it.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const CELLS = data.rows * data.columns;
const SVG = "http://www.w3.org/2000/svg";
const RAMP = [[0, 32, 77], [124, 123, 120], [255, 234, 70]];
const sound = data.sound ? $("sound") : null;

let stop = data.stops[data.asked];
let overlay = "kept";
let time = 0; // s
let shown = -1; // frame
let playing = false;
let before = 0; // ms

function element(name, attributes = {}, text = "") {
  const made = name === "rect" ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const percent = (share) => `${+(100 * share).toFixed(1)}\u00a0%`;
const seconds = (value) => (value < 0.1 ? `${(1000 * value).toFixed(0)}\u00a0ms` : `${value.toFixed(2)}\u00a0s`);
const answer = (one) => one.answer || "(nothing)";
const named = (one) => (one.keep === 1 ? "all" : percent(one.keep));
const picture = (one) => (data.still ? one.report.tokens.image : one.report.tokens.video);

function large(n, unit) {
  const powers = ["", "k", "M", "G", "T", "P", "E"];
  const power = n < 1 ? 0 : Math.min(powers.length - 1, Math.floor(Math.log10(n) / 3));
  return `${+(n / 1000 ** power).toPrecision(3)}\u00a0${powers[power]}${unit}`;
}

function colour(rank) { // cividis, in three steps
  const place = rank / 50, from = Math.min(1, Math.floor(place));
  const mixed = RAMP[from].map((low, i) => Math.round(low + (place - from) * (RAMP[from + 1][i] - low)));
  return `rgb(${mixed.join()})`;
}

// ---- a moment ----

function frameAt(moment) {
  let i = data.times.length - 1;
  while (i > 0 && data.times[i] > moment + 1e-6) i -= 1;
  return i;
}

function showTime(moment) {
  time = Math.min(Math.max(moment, 0), data.duration);
  const i = frameAt(time);
  if (data.frames.length && i !== shown) showFrame(i);
  if (!data.duration) return;
  $("scrub").value = time;
  $("scrub").setAttribute("aria-valuetext", `${time.toFixed(1)} s of ${data.duration.toFixed(1)} s`);
  $("clock").textContent = `${time.toFixed(1)} s of ${data.duration.toFixed(1)} s`;
  $("head").style.left = `${(100 * time) / data.duration}%`;
}

function showFrame(i) {
  const step = Math.floor(i / data.frames_per_step), first = step * CELLS;
  const kept = new Set(stop.kept.video.filter((token) => token >= first && token < first + CELLS));
  shown = i;
  $("frame").src = frames[i].src;
  [...$("cells").children].forEach((cell, n) => {
    const rank = stop.heat?.video[first + n];
    cell.setAttribute("class", kept.has(first + n) ? "kept" : "dropped");
    cell.setAttribute("fill", rank === undefined ? "none" : colour(rank));
    const scored = rank === undefined ? "" : `, scored above ${rank} % of all tokens`;
    const place = `row ${Math.floor(n / data.columns) + 1}, column ${(n % data.columns) + 1}`;
    cell.firstChild.textContent = `${place}: ${kept.has(first + n) ? "kept" : "dropped"}${scored}`;
  });
  const text = `${kept.size} of ${CELLS} tokens kept`;
  const where = data.still ? "" : `Frame ${i + 1} of ${frames.length}, ${data.times[i].toFixed(1)} s: `;
  $("caption").textContent = where + text;
  $("cells").setAttribute("aria-label", where + text);
  $("screen").dataset.step = step;
}

// ---- a keep ratio ----

function showStop(i) {
  stop = data.stops[i];
  const tokens = stop.report.tokens, kept = stop.kept.video.length + stop.kept.audio.length;
  const all = picture(stop).before + tokens.audio.before;
  const asked = i === data.asked ? ", as asked" : "";
  $("answer").textContent = answer(stop);
  $("share").textContent = `${kept} of ${all} (${percent(kept / all)})${asked}`;
  $("keep").setAttribute("aria-valuetext", `${kept} of ${all} tokens${asked}`);
  [...$("rows").children].forEach((row, n) => row.setAttribute("aria-current", n === i));
  $("numbers").replaceChildren(...numbers().flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  showOverlay(overlay);
  drawBudget();
  drawMoments();
}

function showOverlay(name) {
  overlay = name;
  const scored = stop.heat !== null;
  document.querySelector(".player").classList.remove("kept", "heat", "none");
  document.querySelector(".player").classList.add(name === "heat" && !scored ? "none" : name);
  $("scale").hidden = name !== "heat" || !scored;
  $("unscored").hidden = name !== "heat" || scored;
  drawSound();
  shown = -1;
  showTime(time);
}

function drawSound() {
  const kept = new Set(stop.kept.audio), columns = [], ticks = [];
  for (let first = 0, n; first < data.audio_tokens; first += n) {
    const isKept = kept.has(first);
    for (n = 1; overlay !== "heat" && first + n < data.audio_tokens && kept.has(first + n) === isKept; ) n += 1;
    const span = { x: first, y: 0, width: n, height: 1 };
    const heat = overlay === "heat" && stop.heat ? { fill: colour(stop.heat.audio[first]) } : { fill: "none" };
    columns.push(element("rect", { ...span, ...heat, class: isKept ? "kept" : "dropped" }));
    if (isKept) ticks.push(element("rect", span));
  }
  $("columns").replaceChildren(...columns);
  $("ticks").replaceChildren(...ticks);
  $("track").setAttribute("aria-label", `Audio: ${kept.size} of ${data.audio_tokens} tokens kept`);
}

function drawBudget() {
  const { part, video, audio } = stop.budget;
  const sums = video.map((n, i) => n + audio[i]), most = Math.max(1, ...sums);
  $("bars").replaceChildren(...video.map((n, i) => {
    const bar = element("div");
    bar.style.width = `${(100 * part) / data.duration}%`;
    for (const [name, count] of [["video", n], ["audio", audio[i]]]) {
      const piece = element("i", { class: name });
      piece.style.height = `${(100 * count) / most}%`;
      bar.append(piece);
    }
    return bar;
  }));
  const fullest = `at most ${most} in ${+part.toFixed(2)} s`;
  $("most").textContent = `(${fullest})`;
  const when = (sums.indexOf(Math.max(...sums)) * part).toFixed(1);
  $("bars").setAttribute("aria-label", `Kept tokens over time: ${fullest}, from ${when} s on`);
}

function drawMoments() {
  $("evidence").textContent = stop.evidence;
  $("moments").hidden = !stop.moments.length;
  $("moments").replaceChildren(...stop.moments.map(({ start, end, share }) => {
    const moment = element("button", { type: "button" });
    const words = `Evidence: ${start.toFixed(1)} to ${end.toFixed(1)} s, ${percent(share)}; go to its start`;
    moment.setAttribute("aria-label", words);
    moment.style.left = `${(100 * start) / data.duration}%`;
    moment.style.width = `${(100 * (end - start)) / data.duration}%`;
    moment.style.setProperty("--length", (end - start) / data.duration);
    moment.style.setProperty("--share", 0.35 + 0.65 * share);
    moment.addEventListener("click", () => seek(start));
    return moment;
  }));
}

function numbers() {
  const { tokens, time_s: spent, memory_bytes: memory, flops, speedup } = stop.report;
  const counts = Object.entries({ [data.still ? "image" : "video"]: picture(stop), audio: tokens.audio, text: tokens.text });
  const stages = ["decode", "prepare", "encode", "select", "prefill", "generate"].filter((name) => spent[name] !== null);
  return [
    ["reducer", `${stop.reducer}, keep ${stop.keep}`],
    ...counts.filter(([, n]) => n.before).map(([name, n]) => [`${name} tokens`, `${n.before} → ${n.after}`]),
    ["total time", `${seconds(spent.total)}: ${stages.map((name) => `${name} ${seconds(spent[name])}`).join(", ")}`],
    ["first token", `after ${seconds(spent.first_token)}`],
    ["memory", Object.entries(memory).filter(([, n]) => n !== null).map(([name, n]) => `${name} ${large(n, "B")}`).join(", ")],
    ["compute", `${large(flops.full, "FLOP")} → ${large(flops.reduced, "FLOP")}`],
    ["speedup", `${speedup.estimated.toFixed(2)} × (estimate)`],
    ...(stop.finish_reason === "length" ? [["answer", "cut at the token limit"]] : []),
  ];
}

// ---- playing ----

function seek(moment) {
  showTime(moment);
  if (sound) sound.currentTime = time;
  if (playing) listen();
}

function listen() {
  if (sound && !(time >= sound.duration)) sound.play().catch(() => {}); // where it cannot, the picture plays alone
}

function play() {
  if (time >= data.duration - 0.01) seek(0);
  playing = true;
  before = performance.now();
  $("play").textContent = "Pause";
  listen();
  requestAnimationFrame(tick);
}

function pause() {
  playing = false;
  $("play").textContent = "Play";
  sound?.pause();
}

function tick(now) {
  if (!playing) return;
  const leads = sound && !sound.paused && !sound.ended && sound.currentTime > 0; // the ear notices more than the eye
  showTime(leads ? sound.currentTime : time + (now - before) / 1000);
  before = now;
  if (time >= data.duration) pause();
  requestAnimationFrame(tick);
}

function step(by) {
  pause();
  if (data.frames.length) seek(data.times[Math.min(Math.max(frameAt(time) + by, 0), data.frames.length - 1)]);
  else seek(time + by / 2);
}

// ---- the page as it opens ----

const frames = data.frames.map((content) => Object.assign(new Image(), { src: `data:image/jpeg;base64,${content}` }));

function open() {
  $("question").textContent = data.question;
  $("about").textContent = [data.name, data.model, data.reducer].join(" · ");
  $("belief").textContent = data.belief;
  $("nested").textContent = data.stops.length < 2 ? "" : data.nested
    ? "Every smaller choice is part of the larger ones: moving the slider left shows which tokens are dropped first."
    : "A smaller choice is not part of the larger ones here: each ratio selects on its own.";
  $("marks").replaceChildren(...data.stops.map((one) => element("span", {}, named(one))));
  $("keep").max = data.stops.length - 1;
  $("keep").value = data.asked;
  $("rows").replaceChildren(...data.stops.map((one) => {
    const row = element("tr"), tokens = one.report.tokens;
    const { select, prefill, generate } = one.report.time_s;
    const cells = [answer(one), picture(one).after, tokens.audio.after, seconds(select + prefill + generate)];
    row.append(element("th", { scope: "row" }, named(one)), ...cells.map((text) => element("td", {}, text)));
    return row;
  }));
  $("remarks").replaceChildren(...data.remarks.map((text) => element("li", {}, text)));
  openMedia();
  showStop(data.asked);
}

function openMedia() {
  $("picture").hidden = !data.frames.length;
  $("timed").hidden = !data.duration;
  $("track").hidden = !data.spectrogram;
  $("screen").style.aspectRatio = data.width / data.height;
  $("screen").style.maxWidth = `calc(60vh * ${data.width / data.height})`;
  $("cells").setAttribute("viewBox", `0 0 ${data.columns} ${data.rows}`);
  for (let n = 0; n < CELLS; n += 1) {
    const cell = element("rect", { x: n % data.columns, y: Math.floor(n / data.columns), width: 1, height: 1 });
    cell.append(document.createElementNS(SVG, "title"));
    $("cells").append(cell);
  }
  if (sound) sound.src = `data:audio/mpeg;base64,${data.sound}`;
  if (data.spectrogram) $("spectrogram").src = `data:image/jpeg;base64,${data.spectrogram}`;
  for (const id of ["columns", "ticks"]) $(id).setAttribute("viewBox", `0 0 ${Math.max(1, data.audio_tokens)} 1`);
  for (const id of ["spectrogram", "columns", "ticks"]) $(id).style.width = `${(100 * data.spectrogram_s) / data.duration}%`;
  $("scrub").max = data.duration;
  $("axis").replaceChildren(...[0, 1, 2, 3, 4].map((n) => element("span", {}, `${((n * data.duration) / 4).toFixed(1)} s`)));
}

$("keep").addEventListener("input", () => showStop(+$("keep").value));
$("scrub").addEventListener("input", () => seek(+$("scrub").value));
$("play").addEventListener("click", () => (playing ? pause() : play()));
$("back").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
for (const choice of document.getElementsByName("overlay")) choice.addEventListener("change", () => showOverlay(choice.value));
$("timeline").addEventListener("pointerdown", (event) => {
  const { left, width } = $("timeline").getBoundingClientRect();
  seek((data.duration * (event.clientX - left)) / width);
});
document.addEventListener("keydown", (event) => {
  if (!data.duration || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === " " && !event.target.closest("button, [type=radio]")) playing ? pause() : play();
  else if (["ArrowLeft", "ArrowRight"].includes(event.key) && !event.target.closest("#keep, [type=radio]"))
    step(event.key === "ArrowLeft" ? -1 : 1);
  else return;
  event.preventDefault();
});
open();
