// Words: numbers, times and names as people read them.

import { loraWords } from "./loras.js";

const GIB = 2 ** 30, MIB = 2 ** 20;

export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 100) return `${value.toFixed(1)} s`;
  return duration(value);
}

// Roughly, for what lies ahead.
export function duration(value) {
  const whole = Math.max(1, Math.round(value));
  if (whole < 100) return `${whole} s`;
  if (whole < 600 && whole % 60) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

export function ago(unixSeconds) {
  const past = Math.max(0, Date.now() / 1000 - unixSeconds);
  if (past < 50) return "just now";
  if (past < 3300) return `${Math.max(1, Math.round(past / 60))} min ago`;
  if (past < 79200) return `${Math.round(past / 3600)} h ago`;
  const then = new Date(unixSeconds * 1000), isThisYear = then.getFullYear() === new Date().getFullYear();
  const parts = isThisYear ? { month: "short", day: "numeric", hour: "numeric", minute: "numeric" } : { dateStyle: "medium" };
  return then.toLocaleString([], parts);
}

export function date(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export function bytes(value) {
  if (value >= GIB / 10) return `${(value / GIB).toFixed(2)} GiB`;
  return `${(value / MIB).toFixed(value < MIB ? 2 : 1)} MiB`;
}

export function share(part, whole) {
  return whole ? `${((100 * part) / whole).toFixed(1)} %` : "";
}

// "TextEncoding" -> "Text encoding"
export function stage(name) {
  return name.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

const SAID_OTHERWISE = ["width", "height", "num_frames", "fps", "num_inference_steps"];

// `fields` are those of the model, as /v1/models has them. Free texts are not among the facts, nor what is left open.
export function facts(video, fields) {
  const isShort = ({ type, choices = [] }) => type !== "string" || choices.length;
  const others = fields.filter((field) => isShort(field) && video[field.name] != null && !SAID_OTHERWISE.includes(field.name));
  return [
    video.size.replace("x", " × "),
    `${Number(video.duration_seconds.toFixed(2))} s`,
    `${video.num_frames} frames at ${video.fps} fps`,
    `${video.num_inference_steps} steps`,
    ...others.flatMap(({ name, title, type }) => (type === "loras" ? video[name].map((lora) => `LoRA ${loraWords(lora)}`) : `${title.toLowerCase()} ${video[name]}`)),
    ...(video.pictures.includes("image") && !video.extended_from_video_id ? ["begins with a picture"] : []),
    ...(video.pictures.includes("last_image") ? ["ends with a picture"] : []),
    video.layout,
  ];
}

const WAITS = {
  Paused: "Paused: others go first",
  Uploading: "Made; it is being stored",
  Recovering: "Workers died; it goes on once they are back",
};

// What a video that is not over does at this moment.
export function now(video) {
  const left = video.eta_seconds == null ? "" : `about ${duration(video.eta_seconds)} left`;
  if (video.status === "queued") {
    const before = video.queue_position > 1 ? `${video.queue_position - 1} before it` : "Next in line";
    return [before, left].filter(Boolean).join(" · ");
  }
  const steps = ["Denoising", "Paused"].includes(video.stage) && video.step != null ? `step ${video.step} of ${video.num_inference_steps}` : "";
  const name = WAITS[video.stage] ?? stage(video.stage ?? "Starting");
  return [name, steps, left].filter(Boolean).join(" · ");
}

export function isOver({ status }) {
  return status === "completed" || status === "failed";
}

export function badge(video) {
  if (video.status === "failed") return video.error?.code === "cancelled" ? "Cancelled" : "Failed";
  return { queued: "Queued", in_progress: "In the making", completed: "Done" }[video.status];
}
