// Shelf: the queue and the finished videos, kept as the server has them.

import { acts, path } from "./acts.js";
import { Card } from "./card.js";
import { Search } from "./search.js";
import { Title } from "./title.js";
import { badge } from "./words.js";

const PAGE = 20, OLDER_PAGE = 60;
const MAX_STREAMS = 2; // a browser opens six connections to a server, for all of its pages
const BUSY_MS = 3000, IDLE_MS = 6000, HIDDEN_MS = 30000; // between two looks at the list

export class Shelf {
  constructor(api, onReuse, announce, alerts) {
    this.api = api;
    this.announce = announce;
    this.alerts = alerts;
    this.title = new Title();
    this.model = null; // as /v1/models has it
    this.cards = new Map(); // by id
    this.ids = []; // newest first
    this.hasOlder = false;
    this.opened = []; // ids of the one that is looked at by itself, or of two beside each other
    this.compared = null; // the id of the first of two
    this.streams = new Map(); // AbortController by id
    this.timer = 0;
    this.search = new Search(find("search"), () => this.refresh());
    this.acts = acts(api, this, onReuse);
    this.eyes = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) if (isIntersecting) this.cards.get(target.dataset.id)?.see();
    });
    find("older").addEventListener("click", () => this.showOlder());
    find("both").addEventListener("click", () => this.opened.forEach((id) => this.cards.get(id)?.play()));
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  // From now on what the address names is looked at: #/videos/ID, or two with a slash between them.
  follow() {
    addEventListener("hashchange", () => this.open());
    this.open();
  }

  async open() {
    if (location.hash && !location.hash.startsWith("#/")) return; // a place on the page
    const before = this.opened;
    const ids = /^#\/videos\/(.+)$/.exec(location.hash)?.[1].split("/") ?? [];
    this.opened = [...new Set(ids.filter((id) => ID.test(id)))].slice(0, 2);
    this.compared = null;
    try {
      for (const id of this.opened) if (!this.cards.has(id)) this.take(await this.api.get(path({ id })));
      say("");
    } catch (error) {
      say(error.status === 404 ? "There is no such video, or not any more." : error.message);
    }
    for (const id of before) if (!this.opened.includes(id)) this.cards.get(id)?.fold();
    this.arrange();
    for (const id of this.opened) this.cards.get(id)?.unfold();
    if (this.opened.length) find("opened").parentElement.scrollIntoView({ block: "start" });
    focusFirst(this.opened.length ? [this.cards.get(this.opened[0])?.root] : before.map((id) => this.cards.get(id)?.part(".open")));
  }

  // The next picture that somebody chooses stands beside this one.
  compare(video) {
    this.compared = video.id;
    this.arrange();
    find("compare").scrollIntoView({ block: "center" });
    find("compare").focus();
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
    if (!known) this.eyes.observe(card.root);
    if (!before || before.status === video.status) return;
    const said = `${badge(video)}: ${video.prompt.slice(0, 60)}`;
    this.announce(said);
    if (!card.isOver) return;
    this.title.end(video);
    if (!this.title.isSeen) this.alerts.tell(badge(video), video);
  }

  remove(id) {
    const card = this.cards.get(id), root = card?.root;
    const hadFocus = root?.contains(document.activeElement);
    const neighbours = [root?.nextElementSibling, root?.previousElementSibling];
    card?.close();
    if (root) this.eyes.unobserve(root);
    this.cards.delete(id);
    this.ids = this.ids.filter((one) => one !== id);
    this.search.ids = this.search.ids.filter((one) => one !== id);
    if (this.opened.includes(id)) location.hash = "#/";
    this.arrange();
    if (hadFocus) focusFirst([...neighbours.flatMap((one) => [one?.querySelector(".open"), one]), find("shelf")]);
  }

  // Look at the list now and then from here on.
  async refresh() {
    try {
      await this.walk();
      await this.lookElsewhere();
      this.arrange();
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
    if (!older.length) this.hasOlder = page.has_more;
  }

  // What is on the page and not in the list: what is looked for, and what is looked at.
  async lookElsewhere() {
    if (this.search.isOn) await this.seek();
    for (const id of this.opened) {
      if (this.ids.includes(id) || !this.cards.has(id)) continue;
      const video = await this.api.get(path({ id })).catch((error) => (error.status === 404 ? null : Promise.reject(error)));
      if (video) this.take(video);
      else this.remove(id);
    }
  }

  // A page of what is looked for, the first one or that after a video.
  async seek(after) {
    const { query } = this.search;
    const page = await this.page(after, `&${query}`);
    if (query !== this.search.query) return;
    page.data.forEach((video) => this.take(video));
    this.search.take(page, !after, query);
  }

  page(after, more = "") {
    return this.api.get(`v1/videos?limit=${after ? OLDER_PAGE : PAGE}${after ? `&after=${after}` : ""}${more}`);
  }

  async showOlder() {
    const before = this.shown.length;
    try {
      if (this.search.isOn) await this.seek(this.search.ids.at(-1));
      else {
        const page = await this.page(this.ids.at(-1));
        this.ids.push(...page.data.map((video) => video.id));
        page.data.forEach((video) => this.take(video));
        this.hasOlder = page.has_more;
      }
      this.arrange();
      focusFirst([this.shown[before]?.part(".open")]);
    } catch (error) {
      say(error.message);
    }
  }

  // The finished videos that stand there, newest first.
  get shown() {
    const ids = this.search.isOn ? this.search.ids : this.ids;
    return ids.map((id) => this.cards.get(id)).filter((card) => card?.isOver && !this.opened.includes(card.video.id));
  }

  // What is not over, in the order in which it will be made.
  unfinished() {
    const place = ({ video }) => video.queue_position ?? 0;
    return [...this.cards.values()]
      .filter((card) => !card.isOver)
      .sort((a, b) => place(a) - place(b) || a.video.created_at - b.video.created_at);
  }

  arrange() {
    const focused = document.activeElement?.closest(".card");
    const queue = this.unfinished();
    const opened = this.opened.map((id) => this.cards.get(id)).filter(Boolean);
    const waiting = queue.filter(({ video }) => !this.opened.includes(video.id));
    const sections = Object.entries({ opened, queue: waiting, videos: this.shown });
    for (const [name, cards] of sections) {
      lay(find(name), cards.map((card) => card.root));
      find(name).parentElement.hidden = !cards.length;
    }
    for (const [name, cards] of sections) {
      const roots = new Set(cards.map((card) => card.root));
      for (const root of [...find(name).children]) if (!roots.has(root)) root.remove(); // it is not looked for
    }
    for (const card of this.shown) card.link(`#/videos/${this.compared ? `${this.compared}/` : ""}${card.video.id}`);
    find("opened").classList.toggle("pair", opened.length > 1);
    find("both").hidden = opened.length < 2;
    find("compare").hidden = !this.compared;
    if (this.ids.length) find("videos").parentElement.hidden = !(this.shown.length || this.search.isOn);
    find("none-found").hidden = !this.search.isOn || this.shown.length > 0;
    find("older").hidden = !(this.search.isOn ? this.search.hasMore : this.hasOlder);
    find("empty").hidden = this.ids.length > 0;
    this.title.show(queue.map(({ video }) => video));
    this.listen(queue.slice(0, document.hidden ? 1 : MAX_STREAMS).map(({ video }) => video.id));
    const now = document.activeElement;
    if (focused && ([focused, document.body].includes(now) || !now.checkVisibility())) focusFirst([focused.querySelector(".open"), focused]);
  }

  // What is heard aloud of progress are its quarters.
  advance(card, progress) {
    const quarter = Math.floor(progress.progress / 25);
    if (quarter > Math.floor(card.video.progress / 25)) this.announce(`${25 * quarter} %: ${card.video.prompt.slice(0, 60)}`);
    card.show({ ...card.video, ...progress });
    this.title.show(this.unfinished().map(({ video }) => video));
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

const ID = /^video_[0-9a-f]{32}$/;
const find = (id) => document.getElementById(id);

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

function focusFirst(elements) {
  elements.find((element) => element?.isConnected && element.checkVisibility())?.focus({ preventScroll: true });
}
