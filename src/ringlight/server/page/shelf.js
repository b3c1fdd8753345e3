// Shelf: the queue and the finished videos, kept as the server has them.

import { asBody } from "./api.js";
import { Card } from "./card.js";
import { randomSeed } from "./form.js";
import { badge } from "./words.js";

const PAGE = 20;
const MAX_STREAMS = 2; // a browser opens six connections to a server, for all of its pages
const BUSY_MS = 3000, IDLE_MS = 6000, HIDDEN_MS = 30000; // between two looks at the list

export class Shelf {
  constructor(api, onReuse, announce) {
    this.api = api;
    this.announce = announce;
    this.model = null; // as /v1/models has it
    this.cards = new Map(); // by id
    this.ids = []; // newest first
    this.streams = new Map(); // AbortController by id
    this.timer = 0;
    this.acts = {
      cancel: async ({ video }) => this.put(await api.post(`${path(video)}/cancel`)),
      again: ({ video }) => this.create(`${path(video)}/remix`, { prompt: video.prompt, seed: randomSeed() }),
      remix: ({ video }, fields) => this.create(`${path(video)}/remix`, fields),
      extend: ({ video }, fields, files) => this.create("v1/videos/extensions", asBody({ ...fields, video: video.id }, files)),
      reuse: ({ video }) => onReuse(video),
      delete: async ({ video }) => {
        await api.send("DELETE", path(video));
        this.remove(video.id);
      },
      download: async (card) => save(await card.load(), `${card.video.id}.mp4`),
      content: ({ video }) => api.blob(`${path(video)}/content?redirect=false`),
      poster: ({ video }) => api.blob(`${path(video)}/content?variant=thumbnail&redirect=false`),
      report: ({ video }) => api.get(`${path(video)}/report`),
    };
    find("older").addEventListener("click", () => this.showOlder());
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  // Order a video, and show it at once.
  async create(where, fields, headers = {}) {
    const video = await this.api.post(where, fields, headers);
    if (!this.ids.includes(video.id)) this.ids.unshift(video.id);
    this.put(video);
    this.announce("In the queue");
    this.cards.get(video.id).root.scrollIntoView({ block: "nearest" });
  }

  put(video) {
    this.take(video);
    this.arrange();
  }

  // What the server says of a video, unless something newer has been heard.
  take(video) {
    const known = this.cards.get(video.id);
    const before = known?.video;
    if (known?.isOver && video.status !== before.status) return;
    if (before?.status === video.status && video.progress < before.progress) return;
    const card = known ?? new Card(this.acts, this.model);
    this.cards.set(video.id, card);
    card.show(video);
    if (!before || before.status === video.status) return;
    this.announce(`${badge(video)}: ${video.prompt.slice(0, 60)}`);
    if (video.status === "completed") {
      card.part(".report").open = true;
      card.tell(() => card.play(false));
    }
  }

  remove(id) {
    this.cards.get(id)?.close();
    this.cards.delete(id);
    this.ids = this.ids.filter((one) => one !== id);
    this.arrange();
  }

  // Look at the list now and then from here on.
  async refresh() {
    try {
      await this.walk();
      say("");
    } catch (error) {
      say(error.message);
    }
    clearTimeout(this.timer); // of a look that was asked for meanwhile
    const pause = document.hidden ? HIDDEN_MS : this.unfinished().length ? BUSY_MS : IDLE_MS;
    this.timer = setTimeout(() => this.refresh(), pause);
  }

  // The newest page, and further ones as long as there are videos in them that are not over.
  async walk() {
    const known = new Set(this.ids);
    const waiting = new Set(this.unfinished().map(({ video }) => video.id));
    const seen = [];
    let page;
    do {
      page = await this.page(seen.at(-1));
      seen.push(...page.data.map((video) => video.id));
      for (const video of page.data) {
        this.take(video);
        waiting.delete(video.id);
      }
    } while (page.has_more && (waiting.size || !this.cards.get(page.data.at(-1).id).isOver));
    const isSeen = new Set(seen);
    const end = this.ids.findLastIndex((id) => isSeen.has(id));
    const fresh = this.ids.filter((id) => !known.has(id) && !isSeen.has(id)); // ordered here in the meantime
    const older = page.has_more ? this.ids.slice(end + 1).filter((id) => !fresh.includes(id)) : [];
    this.ids = [...fresh, ...seen, ...older];
    for (const id of known) if (!this.ids.includes(id)) this.remove(id);
    if (!older.length) find("older").hidden = !page.has_more;
    this.arrange();
  }

  page(after) {
    return this.api.get(`v1/videos?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  }

  async showOlder() {
    try {
      const page = await this.page(this.ids.at(-1));
      this.ids.push(...page.data.map((video) => video.id));
      page.data.forEach((video) => this.take(video));
      this.arrange();
      find("older").hidden = !page.has_more;
      this.cards.get(page.data[0]?.id)?.root.focus();
    } catch (error) {
      say(error.message);
    }
  }

  // What is not over, in the order in which it will be made.
  unfinished() {
    const place = ({ video }) => video.queue_position ?? 0;
    return [...this.cards.values()]
      .filter((card) => !card.isOver)
      .sort((a, b) => place(a) - place(b) || a.video.created_at - b.video.created_at);
  }

  arrange() {
    const queue = this.unfinished();
    const videos = this.ids.map((id) => this.cards.get(id)).filter((card) => card?.isOver);
    for (const [name, cards] of [["queue", queue], ["videos", videos]]) {
      lay(find(name), cards.map((card) => card.root));
      find(name).parentElement.hidden = !cards.length;
    }
    find("empty").hidden = this.ids.length > 0;
    document.title = queue.length ? `${queue[0].video.progress} % · Ringlight` : "Ringlight";
    this.listen(document.hidden ? [] : queue.slice(0, MAX_STREAMS).map(({ video }) => video.id));
  }

  // What is heard aloud of progress are its quarters.
  advance(card, progress) {
    const quarter = Math.floor(progress.progress / 25);
    if (quarter > Math.floor(card.video.progress / 25)) this.announce(`${25 * quarter} %: ${card.video.prompt.slice(0, 60)}`);
    card.show({ ...card.video, ...progress });
    document.title = `${this.unfinished()[0].video.progress} % · Ringlight`;
  }

  // Have events of these videos, and of no others.
  listen(ids) {
    for (const [id, stream] of this.streams) {
      if (!ids.includes(id)) {
        stream.abort();
        this.streams.delete(id);
      }
    }
    for (const id of ids) {
      if (!this.streams.has(id)) this.hear(id);
    }
  }

  async hear(id) {
    const stream = new AbortController();
    this.streams.set(id, stream);
    try {
      for await (const [name, data] of this.api.events(`v1/videos/${id}/events`, stream.signal)) {
        const card = this.cards.get(id);
        if (stream.signal.aborted || !card) return;
        if (name === "status" || name === "done") this.put(data);
        else if (name === "progress") this.advance(card, data);
        else if (name === "preview") card.setPicture(data.image);
      }
    } catch (error) {
      if (!stream.signal.aborted) console.info(error); // the list is looked at in a moment, and says what is the matter
    }
    if (this.streams.get(id) === stream) setTimeout(() => this.streams.get(id) === stream && this.streams.delete(id), BUSY_MS);
  }
}

const find = (id) => document.getElementById(id);
const path = (video) => `v1/videos/${encodeURIComponent(video.id)}`;

function say(words) {
  find("trouble").textContent = words;
  find("trouble").hidden = !words;
}

// Put elements into this order; those that are in their place stay untouched, and the one with the focus keeps it.
function lay(parent, elements) {
  const focused = document.activeElement;
  for (const [position, element] of elements.entries()) {
    if (parent.children[position] !== element) parent.insertBefore(element, parent.children[position] ?? null);
  }
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
