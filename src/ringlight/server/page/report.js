// Report: where every second and every byte of a run went, as tables with bars.

import { bytes, date, seconds, share, stage } from "./words.js";

const LINK = { ring: "Ring", ulysses: "Ulysses", cfg: "Guidance", halo: "Halo rows", gather: "Gathering", text: "Text", frames: "Frames" };

// Elements that show a report of /v1/videos/{id}/report, and what else is known of its video.
export function tables(report, video) {
  const stages = [...report.stages, { name: "Other", seconds: report.other_seconds }];
  const total = report.total_seconds;
  const digits = total < 10 ? 3 : total < 100 ? 2 : 1; // the same in all rows, so that they can be added up
  const plain = (value) => value.toFixed(digits);
  const time = table(
    ["Stage", "", "Seconds", "Share"],
    stages.map((one) => [stage(one.name), bar([one.seconds / total]), plain(one.seconds), share(one.seconds, total)]),
    ["Total", "", plain(total), ""],
  );
  const most = Math.max(...report.ranks.map((rank) => peak(rank.memory)));
  const memory = table(
    ["Memory", "", kindOf(report).head],
    report.ranks.map(({ memory: one }) => {
      const solid = one.peak_allocated_bytes ?? one.idle_resident_bytes ?? peak(one);
      return [`Rank ${one.rank} on ${one.device}`, bar([solid / most, (peak(one) - solid) / most]), bytes(peak(one))];
    }),
  );
  const kinds = Object.entries(report.worst_link ?? {});
  const link = table(
    ["Waited for the link", "", "Seconds", "Sent"],
    kinds.map(([kind, one]) => [LINK[kind] ?? kind, bar([one.wait_seconds / total]), plain(one.wait_seconds), bytes(one.sent_bytes)]),
  );
  const ranks = make("div");
  ranks.append(memory, ...(kinds.length ? [link] : []));
  return [time, ranks, note(report, video)];
}

function peak(memory) {
  return memory.peak_reserved_bytes || memory.peak_resident_bytes || memory.peak_own_bytes || 0;
}

// What the report measured of memory: a head for its column, and what its bars are.
function kindOf(report) {
  const memory = report.ranks[0].memory;
  if (memory.peak_reserved_bytes) return { head: "Reserved", note: "allocated, and the allocator's overhead" };
  if (memory.peak_own_bytes) return { head: "Own", note: "what each rank has of its own, beside weights that all share" };
  return { head: "Resident", note: "of the idle worker, and its growth" };
}

function note(report, video) {
  const steps = [...report.step_seconds].sort((a, b) => a - b);
  const parts = [
    steps.length ? `A step took ${seconds(steps[steps.length >> 1])} (median).` : "",
    `${report.num_tokens.toLocaleString()} tokens on ${report.ranks.length} rank${report.ranks.length > 1 ? "s" : ""} (${report.layout}).`,
    `Memory: ${kindOf(report).note}.`,
    report.ranks.length > 1 ? "Link: the rank that waited longest." : "",
    ...(report.adapted?.loras ?? []).map((lora) => `LoRA ${lora.name} (${lora.sha256}): ${lora.told}, ${lora.how}.`),
    report.predicted && !report.resumed_from_step ? `Predicted before it began: ${seconds(report.predicted.total_seconds)}.` : "",
    report.resumed_from_step ? `It was resumed after step ${report.resumed_from_step}; what lay before is not in these numbers.` : "",
    video.expires_at ? `Kept until ${date(video.expires_at)}.` : "",
    video.id,
  ];
  return make("p", "note", parts.filter(Boolean).join(" "));
}

// Rows of texts and bars; the first row is the head.
function table(head, rows, foot) {
  const root = make("table");
  root.append(make("thead"), make("tbody"));
  root.tHead.append(row(head, "th", "col"));
  root.tBodies[0].append(...rows.map((cells) => row(cells, "td")));
  if (foot) root.createTFoot().append(row(foot, "td"));
  return root;
}

function row(cells, tag, scope = "row") {
  const root = make("tr");
  for (const [position, content] of cells.entries()) {
    const cell = make(position ? (content && tag) || "td" : "th"); // bars have no head
    if (cell.tagName === "TH") cell.scope = position ? "col" : scope;
    cell.append(content);
    root.append(cell);
  }
  return root;
}

// Parts of a whole, 0 to 1, one after the other.
function bar(parts) {
  const root = make("div", "bar");
  for (const part of parts) {
    const piece = make("i");
    piece.style.width = `${100 * Math.min(1, Math.max(0, part))}%`;
    root.append(piece);
  }
  return root;
}

function make(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}
