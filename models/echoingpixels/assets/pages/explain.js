// Draws the page's data and computes none of it.
const data = JSON.parse($("data").textContent);

let stop = data.stops[data.asked];

const answer = (one) => one.answer || "(nothing)";
const picture = (one) => (data.clip.still ? one.report.tokens.image : one.report.tokens.video);

function large(n, unit) {
  const powers = ["", "k", "M", "G", "T", "P", "E"];
  const power = n < 1 ? 0 : Math.min(powers.length - 1, Math.floor(Math.log10(n) / 3));
  return `${+(n / 1000 ** power).toPrecision(3)}\u00a0${powers[power]}${unit}`;
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
  showChoice(stop);
}

function numbers() {
  const { tokens, time_s: spent, memory_bytes: memory, flops, speedup } = stop.report;
  const counts = Object.entries({ [data.clip.still ? "image" : "video"]: picture(stop), audio: tokens.audio, text: tokens.text });
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

// ---- the page as it opens ----

function open() {
  $("question").textContent = data.question;
  $("about").textContent = [data.name, data.model, data.reducer].join(" · ");
  $("belief").textContent = data.belief;
  $("nested").textContent = data.stops.length < 2 ? "" : data.nested
    ? "Every smaller choice is part of the larger ones: moving the slider left shows which tokens are dropped first."
    : "A smaller choice is not part of the larger ones here: each ratio selects on its own.";
  openRatios(data.stops.map((one) => one.keep), data.asked);
  $("rows").replaceChildren(...data.stops.map((one) => {
    const row = element("tr"), tokens = one.report.tokens;
    const { select, prefill, generate } = one.report.time_s;
    const cells = [answer(one), picture(one).after, tokens.audio.after, seconds(select + prefill + generate)];
    row.append(element("th", { scope: "row" }, named(one.keep)), ...cells.map((text) => element("td", {}, text)));
    return row;
  }));
  $("remarks").replaceChildren(...data.remarks.map((text) => element("li", {}, text)));
  openClip(data.clip);
  showStop(data.asked);
}

$("keep").addEventListener("input", () => showStop(+$("keep").value));
open();
