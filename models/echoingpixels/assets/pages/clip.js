"use strict";
// What the pages of ep explain and ep serve share: a clip with its kept tokens, and playing it.
// Draws what it is given and computes none of it. Text is only ever set as text.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const RAMP = [[0, 32, 77], [124, 123, 120], [255, 234, 70]];
const NOTHING = { kept: null, heat: null, budget: null, moments: [], evidence: "" };

let clip = null; // a ClipView
let frames = [];
let sound = null;
let choice = NOTHING; // the tokens on the clip: of a Stop, or of an answer
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
const named = (keep) => (keep === 1 ? "all" : percent(keep));

function openRatios(ratios, first) {
  $("marks").replaceChildren(...ratios.map((keep) => element("span", {}, named(keep))));
  $("keep").max = ratios.length - 1;
  $("keep").value = first;
}

function colour(rank) { // cividis, in three steps
  const place = rank / 50, from = Math.min(1, Math.floor(place));
  const mixed = RAMP[from].map((low, i) => Math.round(low + (place - from) * (RAMP[from + 1][i] - low)));
  return `rgb(${mixed.join()})`;
}

// ---- a clip ----

function openClip(view) {
  pause();
  clip = view;
  time = 0;
  frames = clip.frames.map((content) => Object.assign(new Image(), { src: `data:image/jpeg;base64,${content}` }));
  $("picture").hidden = !frames.length;
  $("timed").hidden = !clip.duration;
  $("track").hidden = !clip.spectrogram;
  if (frames.length) {
    $("screen").style.aspectRatio = clip.width / clip.height;
    $("screen").style.maxWidth = `calc(60vh * ${clip.width / clip.height})`;
  }
  $("cells").setAttribute("viewBox", `0 0 ${clip.columns} ${clip.rows}`);
  $("cells").replaceChildren(...Array.from({ length: clip.rows * clip.columns }, (_, n) => {
    const cell = element("rect", { x: n % clip.columns, y: Math.floor(n / clip.columns), width: 1, height: 1 });
    cell.append(document.createElementNS(SVG, "title"));
    return cell;
  }));
  sound = clip.sound ? $("sound") : null;
  if (sound) sound.src = `data:audio/mpeg;base64,${clip.sound}`;
  else $("sound").removeAttribute("src");
  if (clip.spectrogram) $("spectrogram").src = `data:image/jpeg;base64,${clip.spectrogram}`;
  for (const id of ["columns", "ticks"]) $(id).setAttribute("viewBox", `0 0 ${Math.max(1, clip.audio_tokens)} 1`);
  for (const id of ["spectrogram", "columns", "ticks"]) $(id).style.width = `${(100 * clip.spectrogram_s) / clip.duration}%`;
  $("scrub").max = clip.duration;
  $("axis").replaceChildren(...[0, 1, 2, 3, 4].map((n) => element("span", {}, `${((n * clip.duration) / 4).toFixed(1)} s`)));
  showChoice(NOTHING);
}

// ---- a moment ----

function frameAt(moment) {
  let i = clip.times.length - 1;
  while (i > 0 && clip.times[i] > moment + 1e-6) i -= 1;
  return i;
}

function showTime(moment) {
  time = Math.min(Math.max(moment, 0), clip.duration);
  const i = frameAt(time);
  if (frames.length && i !== shown) showFrame(i);
  if (!clip.duration) return;
  $("scrub").value = time;
  $("scrub").setAttribute("aria-valuetext", `${time.toFixed(1)} s of ${clip.duration.toFixed(1)} s`);
  $("clock").textContent = `${time.toFixed(1)} s of ${clip.duration.toFixed(1)} s`;
  $("head").style.left = `${(100 * time) / clip.duration}%`;
}

function showFrame(i) {
  const count = clip.rows * clip.columns, step = Math.floor(i / clip.frames_per_step), first = step * count;
  const kept = new Set(choice.kept?.video.filter((token) => token >= first && token < first + count));
  shown = i;
  $("frame").src = frames[i].src;
  [...$("cells").children].forEach((cell, n) => {
    const rank = choice.heat?.video[first + n];
    cell.setAttribute("class", kept.has(first + n) ? "kept" : "dropped");
    cell.setAttribute("fill", rank === undefined ? "none" : colour(rank));
    const scored = rank === undefined ? "" : `, scored above ${rank} % of all tokens`;
    const place = `row ${Math.floor(n / clip.columns) + 1}, column ${(n % clip.columns) + 1}`;
    cell.firstChild.textContent = `${place}: ${kept.has(first + n) ? "kept" : "dropped"}${scored}`;
  });
  const where = clip.still ? [] : [`Frame ${i + 1} of ${frames.length}, ${clip.times[i].toFixed(1)} s`];
  const text = [...where, ...(choice.kept ? [`${kept.size} of ${count} tokens kept`] : [])].join(": ");
  $("caption").textContent = text;
  $("cells").setAttribute("aria-label", text || "The image");
  $("screen").dataset.step = step;
}

// ---- a choice of tokens ----

function showChoice(next) {
  choice = next;
  $("chosen").hidden = $("overlay").hidden = !choice.kept;
  showOverlay(overlay);
  if (!choice.kept) return;
  drawBudget();
  drawMoments();
}

function showOverlay(name) {
  overlay = name;
  const scored = choice.heat !== null, drawn = choice.kept !== null && !(name === "heat" && !scored);
  document.querySelector(".player").classList.remove("kept", "heat", "none");
  document.querySelector(".player").classList.add(drawn ? name : "none");
  $("scale").hidden = name !== "heat" || !scored;
  $("unscored").hidden = name !== "heat" || scored;
  drawSound();
  shown = -1;
  showTime(time);
}

function drawSound() {
  const kept = new Set(choice.kept?.audio), columns = [], ticks = [];
  for (let first = 0, n; first < clip.audio_tokens; first += n) {
    const isKept = kept.has(first);
    for (n = 1; overlay !== "heat" && first + n < clip.audio_tokens && kept.has(first + n) === isKept; ) n += 1;
    const span = { x: first, y: 0, width: n, height: 1 };
    const heat = overlay === "heat" && choice.heat ? { fill: colour(choice.heat.audio[first]) } : { fill: "none" };
    columns.push(element("rect", { ...span, ...heat, class: isKept ? "kept" : "dropped" }));
    if (isKept) ticks.push(element("rect", span));
  }
  $("columns").replaceChildren(...columns);
  $("ticks").replaceChildren(...ticks);
  $("track").setAttribute("aria-label", choice.kept ? `Audio: ${kept.size} of ${clip.audio_tokens} tokens kept` : "Audio");
}

function drawBudget() {
  const { part, video, audio } = choice.budget;
  const sums = video.map((n, i) => n + audio[i]), most = Math.max(1, ...sums);
  $("bars").replaceChildren(...video.map((n, i) => {
    const bar = element("div");
    bar.style.width = `${(100 * part) / clip.duration}%`;
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
  $("evidence").textContent = choice.evidence;
  $("moments").hidden = !choice.moments.length;
  $("moments").replaceChildren(...choice.moments.map(({ start, end, share }) => {
    const moment = element("button", { type: "button" });
    const words = `Evidence: ${start.toFixed(1)} to ${end.toFixed(1)} s, ${percent(share)}; go to its start`;
    moment.setAttribute("aria-label", words);
    moment.style.left = `${(100 * start) / clip.duration}%`;
    moment.style.width = `${(100 * (end - start)) / clip.duration}%`;
    moment.style.setProperty("--length", (end - start) / clip.duration);
    moment.style.setProperty("--share", 0.35 + 0.65 * share);
    moment.addEventListener("click", () => seek(start));
    return moment;
  }));
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
  if (time >= clip.duration - 0.01) seek(0);
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
  if (time >= clip.duration) pause();
  requestAnimationFrame(tick);
}

function step(by) {
  pause();
  if (frames.length) seek(clip.times[Math.min(Math.max(frameAt(time) + by, 0), frames.length - 1)]);
  else seek(time + by / 2);
}

$("scrub").addEventListener("input", () => seek(+$("scrub").value));
$("play").addEventListener("click", () => (playing ? pause() : play()));
$("back").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
for (const one of document.getElementsByName("overlay")) one.addEventListener("change", () => showOverlay(one.value));
$("timeline").addEventListener("pointerdown", (event) => {
  const { left, width } = $("timeline").getBoundingClientRect();
  seek((clip.duration * (event.clientX - left)) / width);
});
document.addEventListener("keydown", (event) => {
  if (!clip?.duration || event.ctrlKey || event.altKey || event.metaKey) return;
  const space = event.key === " ", on = event.target;
  if (!space && !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  if (on.closest("textarea, input:not([type=range])") || on.closest(space ? "button, summary" : "#keep")) return;
  event.preventDefault();
  if (!space) step(event.key === "ArrowLeft" ? -1 : 1);
  else if (playing) pause();
  else play();
});
