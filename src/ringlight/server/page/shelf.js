// Shelf: the queue and the finished videos, kept as the server has them.

import { acts, path } from "./acts.js";
import { Card } from "./card.js";
import { Grid, lay } from "./grid.js";
import { Listing } from "./listing.js";
import { Search } from "./search.js";
import { Title } from "./title.js";
import { badge, isOver } from "./words.js";

const MAX_STREAMS = 2; // a browser opens six connections to a server, for all of its pages
const MOST_WAITING = 20, MORE_WAITING = 50; // that are drawn, and that are drawn besides where somebody wants to see more
const BUSY_MS = 3000, IDLE_MS = 6000, HIDDEN_MS = 30000; // between two looks at the list

export class Shelf {
  constructor(api, onReuse, announce, alerts) {
    this.api = api;
    this.announce = announce;
    this.alerts = alerts;
    this.title = new Title();
    this.model = null; // as /v1/models has it
    this.cards = new Map(); // by id, of the videos that are elements of the page
    this.queue = []; // what is not over, as it was arranged last
    this.opened = []; // ids of the one that is looked at by itself, or of two beside each other
    this.compared = null; // the id of the first of two
    this.streams = new Map(); // AbortController by id
    this.older = null; // a promise of the next page
    this.isStuck = false; // something did not come; it is asked for again once the list is seen
    this.timer = 0;
    this.most = MOST_WAITING;
    this.depth = 0; // how far the tiles were scrolled when one was opened, in pixels
    this.search = new Search(find("search"), () => this.seek());
    this.listing = new Listing(api, this.search, { take: (video) => this.take(video), remove: (id) => this.remove(id) });
    this.grid = new Grid(find("videos"), { cardOf: (id) => this.tile(id), onMove: () => this.sweep(), onEnd: () => this.older || this.isStuck || this.showOlder() });
    this.acts = acts(api, this, onReuse);
    this.eyes = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) this.cards.get(target.dataset.id)?.see(isIntersecting);
    });
    history.scrollRestoration = "manual";
    find("older").addEventListener("click", () => this.showOlder(true));
    find("more-waiting").addEventListener("click", () => this.showWaiting());
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
      for (const id of this.opened) if (!this.listing.videos.has(id)) this.take(await this.api.get(path({ id })));
      say("");
    } catch (error) {
      say(error.status === 404 ? "There is no such video, or not any more." : error.message);
    }
    const top = () => find("videos").getBoundingClientRect().top;
    if (!before.length) this.depth = top();
    for (const id of before) if (!this.opened.includes(id)) this.cards.get(id)?.fold();
    this.arrange();
    for (const id of this.opened) this.cards.get(id)?.unfold();
    if (this.opened.length) {
      find("opened").parentElement.scrollIntoView({ block: "start" });
      return focusFirst([this.cards.get(this.opened[0])?.root]);
    }
    if (!before.length) return;
    scrollBy({ top: top() - this.depth, behavior: "instant" });
    const last = before.find((id) => this.grid.ids.includes(id));
    if (last) this.grid.reveal(last);
    this.sweep();
    if (last) focusFirst([this.cards.get(last)?.part(".open")]);
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
    this.listing.own.add(video.id);
    this.put(video);
    this.announce("In the queue");
    this.cards.get(video.id)?.root.scrollIntoView({ block: "nearest" });
  }

  put(video) {
    this.take(video);
    this.arrange();
  }

  // What the server says of a video, unless something newer has been heard.
  take(video) {
    const before = this.listing.videos.get(video.id);
    if (before && isOver(before) && video.status !== before.status) return;
    if (before?.status === video.status && video.progress < before.progress) return;
    this.listing.videos.set(video.id, video);
    this.cards.get(video.id)?.show(video);
    if (!before || before.status === video.status) return;
    if (isOver(video)) this.listing.place(video);
    const said = `${badge(video)}: ${video.prompt.slice(0, 60)}`;
    this.announce(said);
    if (!isOver(video)) return;
    this.title.end(video);
    if (!this.title.isSeen) this.alerts.tell(badge(video), video);
  }

  remove(id) {
    const root = this.cards.get(id)?.root;
    const hadFocus = root?.contains(document.activeElement);
    const neighbours = [root?.nextElementSibling, root?.previousElementSibling];
    this.drop(id);
    this.listing.forget(id);
    if (this.opened.includes(id)) location.hash = "#/";
    this.arrange();
    if (hadFocus) focusFirst([...neighbours.flatMap((one) => [one?.querySelector(".open"), one]), find("shelf")]);
  }

  // The card of a video that is known.
  card(id) {
    let card = this.cards.get(id);
    if (card) return card;
    card = new Card(this.acts, this.model);
    this.cards.set(id, card);
    card.show(this.listing.videos.get(id));
    this.eyes.observe(card.root);
    return card;
  }

  alone(id) {
    const card = this.card(id);
    for (const name of ["aria-posinset", "aria-setsize"]) card.root.removeAttribute(name);
    return card;
  }

  tile(id) {
    const card = this.card(id);
    card.link(`#/videos/${this.compared ? `${this.compared}/` : ""}${id}`);
    return card;
  }

  drop(id) {
    const card = this.cards.get(id);
    if (!card) return;
    this.eyes.unobserve(card.root);
    this.cards.delete(id);
    card.close();
  }

  // Let go of the cards that stand nowhere any more.
  sweep() {
    for (const [id, card] of this.cards) if (!card.root.isConnected) this.drop(id);
  }

  // Look at the list now and then from here on.
  async refresh() {
    try {
      await this.listing.walk(this.opened);
      if (this.isStuck) this.cards.forEach((card) => card.showPoster());
      this.isStuck = false;
      this.arrange();
      say("");
    } catch (error) {
      this.isStuck = true;
      say(error.message);
    }
    clearTimeout(this.timer); // of a look that was asked for meanwhile
    const pause = document.hidden ? HIDDEN_MS : this.queue.length ? BUSY_MS : IDLE_MS;
    this.timer = setTimeout(() => this.refresh(), pause);
  }

  // Something else is looked for: its begin is on the screen.
  seek() {
    const { parentElement: section } = find("videos");
    if (section.getBoundingClientRect().top < 0) section.scrollIntoView({ block: "start", behavior: "instant" });
    return this.refresh();
  }

  // More of what waits; the focus goes to the first of them.
  showWaiting() {
    const before = new Set(this.cards.keys());
    this.most += MORE_WAITING;
    this.arrange();
    focusFirst([...find("queue").children].filter((root) => !before.has(root.dataset.id)));
  }

  // The next page, once for all who want it at this moment; the focus goes to its first video where it is asked for.
  async showOlder(isAsked = false) {
    if (!this.listing.hasMore) return;
    const before = this.grid.ids.length;
    try {
      await (this.older ??= this.listing.more());
      this.arrange();
    } catch (error) {
      this.isStuck = true;
      say(error.message);
    } finally {
      this.older = null;
    }
    if (isAsked) focusFirst([this.cards.get(this.grid.ids[before])?.part(".open")]);
  }

  arrange() {
    const { listing } = this;
    const focused = document.activeElement?.closest(".card");
    const queue = (this.queue = listing.unfinished);
    const opened = this.opened.filter((id) => listing.videos.has(id));
    const waiting = this.draw(queue).filter((id) => !opened.includes(id));
    const tiles = listing.finished.filter((id) => !opened.includes(id));
    for (const [name, ids] of [["opened", opened], ["queue", waiting]]) {
      lay(find(name), ids.map((id) => this.alone(id).root));
      find(name).parentElement.hidden = !ids.length;
    }
    const canSearch = listing.videos.size && (this.search.isOn || !find("others").hidden);
    find("videos").parentElement.hidden = !(tiles.length || canSearch);
    this.grid.show(tiles, !listing.hasMore);
    for (const [name, ids] of [["opened", opened], ["queue", waiting]]) {
      for (const root of [...find(name).children].slice(ids.length)) root.remove();
    }
    this.sweep();
    find("opened").classList.toggle("pair", opened.length > 1);
    find("both").hidden = opened.length < 2;
    find("compare").hidden = !this.compared;
    find("none-found").hidden = !this.search.isOn || tiles.length > 0 || listing.findsWaiting;
    find("older").hidden = !listing.hasMore;
    find("empty").hidden = listing.videos.size > 0;
    this.title.show(queue[0]);
    this.listen(queue.slice(0, document.hidden ? 1 : MAX_STREAMS).map(({ id }) => id));
    const now = document.activeElement;
    if (focused && ([focused, document.body].includes(now) || !now.checkVisibility())) focusFirst([focused.querySelector(".open"), focused]);
  }

  // Ids of what runs, of the first that wait, and of what was ordered here; a line says how many others wait.
  draw(queue) {
    const { own, queued } = this.listing;
    let room = this.most;
    const drawn = queue.filter(({ id, status }) => status !== "queued" || room-- > 0 || own.has(id));
    const others = queue.length - drawn.length;
    const words = `${queued.hasMore ? "More than " : ""}${others} more ${others === 1 ? "waits" : "wait"}`;
    if (find("others-words").textContent !== words) find("others-words").textContent = words;
    find("others").hidden = !others;
    return drawn.map(({ id }) => id);
  }

  // What is heard aloud of progress are its quarters.
  advance(video, progress) {
    const quarter = Math.floor(progress.progress / 25);
    if (quarter > Math.floor(video.progress / 25)) this.announce(`${25 * quarter} %: ${video.prompt.slice(0, 60)}`);
    this.take({ ...video, ...progress });
    this.title.show(this.listing.videos.get(this.queue[0]?.id));
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
        const video = this.listing.videos.get(id);
        if (stream.signal.aborted || !video) return;
        if (name === "status" || name === "done") this.put(data);
        else if (name === "progress") this.advance(video, data);
        else if (name === "preview") this.cards.get(id)?.setPicture(data.image);
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

function focusFirst(elements) {
  elements.find((element) => element?.isConnected && element.checkVisibility())?.focus({ preventScroll: true });
}
