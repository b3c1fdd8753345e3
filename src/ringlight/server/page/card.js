// Card: one video as it is seen, from the queue to the screen.

import { Picture } from "./picture.js";
import { tables } from "./report.js";
import * as words from "./words.js";

const OFFERED = {
  queued: ["cancel", "reuse", "delete"],
  in_progress: ["cancel", "reuse", "delete"],
  completed: ["download", "again", "remix", "extend", "reuse", "compare", "delete"],
  failed: ["retry", "reuse", "delete"],
};
const FOLLOWS = {
  remix: { label: "A new prompt, with the same settings and seed", button: "Make the remix" },
  extend: { label: "What happens next", button: "Extend it" },
};
const SURE_MS = 4000;
const GLANCE_MS = 100; // for which it is on the screen before its picture is asked for: many fly past

export class Card {
  // `acts`: what a button does, by its data-do; each gets this card, and throws an ApiError that is told here. `model`
  // is an entry of /v1/models.
  constructor(acts, model) {
    this.root = document.querySelector("#card").content.cloneNode(true).firstElementChild;
    this.acts = { play: () => this.play(), dismiss: () => this.dismiss(), ...acts };
    this.model = model;
    this.video = null;
    this.isSeen = false; // has been on the screen, and may have its picture
    this.picture = null; // a promise of its thumbnail
    this.timer = 0;
    this.closing = new AbortController();
    this.isMended = false; // has had a new link, and has not played since
    this.root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button && !button.closest(".drop")) this.act(button);
    });
    this.last = new Picture(this.part(".follow .drop"), () => {}, null, () => {});
    this.part(".follow").addEventListener("submit", (event) => {
      event.preventDefault();
      this.sendFollow();
    });
    this.part(".follow").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.sendFollow();
      if (event.key === "Escape") this.dismiss();
    });
    this.part("video").addEventListener("error", () => this.part("video").src && this.tell(() => this.mend()));
    this.part("video").addEventListener("loadeddata", () => (this.isMended = false));
    this.part(".report").addEventListener("toggle", () => this.part(".report").open && this.showReport());
  }

  part(selector) {
    return this.root.querySelector(selector);
  }

  get isOver() {
    return words.isOver(this.video);
  }

  show(video) {
    const before = this.video;
    this.video = video;
    set(this.root, { ariaLabel: `${words.badge(video)}: ${video.prompt.slice(0, 80)}` });
    set(this.root.dataset, { status: video.status, id: video.id });
    set(this.part(".badge"), { textContent: words.badge(video) });
    set(this.part("time"), { textContent: words.ago(video.created_at), title: words.date(video.created_at) });
    set(this.part(".origin"), { textContent: origin(video) });
    set(this.part(".live"), { hidden: this.isOver });
    set(this.part("progress"), { value: video.progress });
    set(this.part(".now"), { textContent: this.isOver ? "" : words.now(video) });
    set(this.part(".ring span"), { textContent: video.status === "in_progress" ? `${video.progress} %` : "" });
    if (before?.progress !== video.progress) this.part(".ring").style.setProperty("--done", `${video.progress}%`);
    set(this.part(".failure"), { hidden: !video.error, textContent: video.error?.message ?? "" });
    set(this.part(".notes"), { hidden: !video.warnings.length, textContent: video.warnings.map(({ message }) => `Note: ${message}.`).join("\n") });
    if (before?.status !== video.status) this.change();
  }

  // What only a new status changes.
  change() {
    const { video } = this;
    this.part(".prompt").textContent = video.prompt;
    this.part(".facts").replaceChildren(...words.facts(video, this.model.fields).map((fact) => Object.assign(document.createElement("span"), { textContent: fact })));
    this.part(".screen").style.aspectRatio = `${video.width} / ${video.height}`;
    this.part(".screen").classList.toggle("upright", video.height > video.width);
    const isDone = video.status === "completed";
    this.part(".report").hidden = !isDone;
    this.part(".play").hidden = !isDone;
    this.part(".play").setAttribute("aria-label", `Play: ${video.prompt.slice(0, 80)}`);
    this.part(".ring").hidden = this.isOver;
    if (video.status === "failed") this.part(".picture").hidden = true;
    for (const button of this.root.querySelectorAll(".actions [data-do]")) {
      if (button === document.activeElement && !OFFERED[video.status].includes(button.dataset.do)) this.root.focus({ preventScroll: true });
      button.hidden = !OFFERED[video.status].includes(button.dataset.do);
    }
    if (!this.model.takes_picture) this.part("[data-do=extend]").hidden = true;
    this.link(`#/videos/${video.id}`);
    this.showPoster();
  }

  // Where its picture leads, as long as it is one of many.
  link(href) {
    this.part(".open").href = href;
    this.part(".open").setAttribute("aria-label", `${words.badge(this.video)}: ${this.video.prompt.slice(0, 80)}`);
  }

  see(isOnScreen) {
    clearTimeout(this.timer);
    if (isOnScreen) this.timer = setTimeout(() => this.wantPoster(), GLANCE_MS);
  }

  wantPoster() {
    this.isSeen = true;
    this.showPoster();
  }

  showPoster() {
    if (!this.isSeen || this.video.status !== "completed") return;
    const { signal } = this.closing;
    const show = (blob) => signal.aborted || this.setPicture(URL.createObjectURL(blob));
    this.picture ??= this.acts.poster(this, signal).then(show, () => (this.picture = null)); // the play button does without
  }

  // It is looked at by itself, with its report; or one of many again, and its film is let go.
  unfold() {
    this.wantPoster();
    if (this.video.status === "completed") this.part(".report").open = true;
  }

  fold() {
    const screen = this.part("video");
    if (screen.hidden) return;
    screen.pause();
    screen.removeAttribute("src");
    screen.load();
    screen.hidden = true;
    this.part(".play").hidden = false;
    this.part(".picture").hidden = !this.part(".picture").src;
  }

  setPicture(source) {
    const picture = this.part(".picture");
    URL.revokeObjectURL(picture.src);
    picture.src = source;
    picture.hidden = false;
    this.part("video").poster = source;
  }

  async act(button) {
    const name = button.dataset.do;
    if (name === "delete" && !button.dataset.sure) return askAgain(button);
    if (FOLLOWS[name]) return this.openFollow(name);
    button.setAttribute("aria-busy", "true");
    await this.tell(() => this.acts[name](this));
    button.removeAttribute("aria-busy");
  }

  // Whether it went well; words where it did not.
  async tell(action) {
    const place = this.part(".about > .problem");
    place.hidden = true;
    try {
      await action();
      return true;
    } catch (error) {
      place.textContent = error.message;
      place.hidden = false;
      return false;
    }
  }

  async play() {
    const screen = this.part("video");
    if (!screen.src) screen.src = await this.acts.source(this);
    screen.hidden = false;
    this.part(".play").hidden = true;
    this.part(".picture").hidden = true;
    await screen.play().catch(() => {}); // where the browser wants another click, the controls are there
    screen.focus();
  }

  // Links are over after a while, and with the server that made them: then it goes on with a new one.
  async mend() {
    const screen = this.part("video"), { currentTime, paused } = screen;
    await this.acts.check(this);
    if (this.isMended) throw new Error("This browser cannot play the film.");
    this.isMended = true;
    screen.src = await this.acts.source(this);
    screen.currentTime = currentTime;
    if (!paused) await screen.play().catch(() => {});
  }

  openFollow(name) {
    const form = this.part(".follow");
    form.dataset.act = name;
    form.hidden = false;
    form.querySelector("label > span").textContent = FOLLOWS[name].label;
    form.querySelector("[type=submit]").textContent = FOLLOWS[name].button;
    form.querySelector(".more").hidden = name !== "extend";
    form.querySelector(".end").hidden = name !== "extend" || !this.model.takes_last_picture;
    form.querySelector(".end small").textContent = this.model.needs_last_picture ? "needed: no video without one" : "optional";
    this.last.choose(null);
    this.last.describe([this.video.width, this.video.height]);
    form.elements.prompt.value = this.video.prompt;
    form.elements.seconds.value = Math.floor((100 * this.video.num_frames) / this.video.fps) / 100;
    form.elements.prompt.focus();
    form.elements.prompt.select();
  }

  dismiss() {
    const { act } = this.part(".follow").dataset;
    this.part(".follow").hidden = true;
    this.part(`.actions [data-do=${act}]`).focus();
  }

  async sendFollow() {
    const form = this.part(".follow");
    const fields = { prompt: form.elements.prompt.value };
    const files = form.dataset.act === "extend" ? { last_image: this.last.file } : {};
    if (form.dataset.act === "extend") fields.seconds = form.elements.seconds.value;
    const button = form.querySelector("[type=submit]");
    if (button.disabled) return;
    button.disabled = true;
    if (await this.tell(() => this.acts[form.dataset.act](this, fields, files))) form.hidden = true;
    button.disabled = false;
  }

  async showReport() {
    const place = this.part(".tables");
    if (!place.childElementCount) await this.tell(async () => place.replaceChildren(...tables(await this.acts.report(this), this.video)));
  }

  close() {
    clearTimeout(this.timer);
    this.closing.abort();
    this.fold();
    for (const picture of [this.part(".picture"), this.last.shown]) URL.revokeObjectURL(picture.src);
    this.root.remove();
  }
}

// What is as it was is not drawn anew.
function set(target, values) {
  for (const [name, value] of Object.entries(values)) if (target[name] !== value) target[name] = value;
}

function origin(video) {
  const restarts = video.restarts ? `went on after its workers died (${video.restarts} ×)` : "";
  const kind = video.extended_from_video_id ? "extension" : video.remixed_from_video_id ? "remix" : "";
  return [kind, restarts].filter(Boolean).map((word) => `· ${word}`).join(" ");
}

// A second press within some seconds is meant.
function askAgain(button) {
  const words = button.textContent;
  button.dataset.sure = "yes";
  button.textContent = "Really delete?";
  setTimeout(() => {
    delete button.dataset.sure;
    button.textContent = words;
  }, SURE_MS);
}
