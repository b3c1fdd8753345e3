// Listing: the videos of this key as far as they are known, by status, each kept as the server has it.

import { Run } from "./run.js";
import { isOver } from "./words.js";

const MOST_RUNNING = 100;
const HURRY = 5; // further pages at a look until all that waits is known, and one from then on
const MOST_LOST = 20; // videos that are asked for by themselves at a look

export class Listing {
  // take(video) hears what the server says of each, remove(id) which are not there any more.
  constructor(api, search, { take, remove }) {
    this.api = api;
    this.search = search;
    this.take = take;
    this.remove = remove;
    this.videos = new Map(); // by id, with those that are not in the list: what was looked for, and what is looked at
    this.own = new Set(); // ids of those that were ordered here
    this.seen = new Set(); // ids, at this look
    this.lost = new Set(); // ids that stand where they stood no more
    this.running = this.run("status=in_progress&order=asc");
    this.words = ""; // that are looked for
    [this.queued, this.completed, this.failed] = this.find("");
  }

  // What is over and somebody wants to see, newest first; as far as all is known.
  get finished() {
    const left = this.sources.map(({ ids, hasMore }) => ({ ids: ids.filter((id) => this.videos.has(id) && isOver(this.videos.get(id))), hasMore }));
    const all = [];
    for (;;) {
      if (left.some(({ ids, hasMore }) => !ids.length && hasMore)) return all;
      const [first] = left.filter(({ ids }) => ids.length).sort((a, b) => this.age(a.ids[0]) - this.age(b.ids[0]));
      if (!first) return all;
      all.push(first.ids.shift());
    }
  }

  get sources() {
    const { status } = this.search;
    return [...(status === "failed" ? [] : [this.completed]), ...(status === "completed" ? [] : [this.failed])];
  }

  get hasMore() {
    return this.sources.some((run) => run.hasMore);
  }

  // What is not over, in the order in which it will be made; of what waits, what is looked for.
  get unfinished() {
    const place = ({ status, queue_position }) => queue_position ?? (status === "queued" ? Infinity : 0);
    return [...new Set([...this.running.ids, ...this.queued.ids, ...this.own])]
      .map((id) => this.videos.get(id))
      .filter((video) => video && !isOver(video))
      .sort((a, b) => (place(a) === place(b) ? a.created_at - b.created_at : place(a) - place(b)));
  }

  get findsWaiting() {
    return Boolean(this.words && !this.search.status && this.queued.ids.length);
  }

  age(id) {
    return -(this.videos.get(id)?.created_at ?? Infinity);
  }

  run(query) {
    const take = (video) => {
      this.seen.add(video.id);
      this.lost.delete(video.id);
      this.take(video);
    };
    return new Run(query, { ask: (asked) => this.api.get(`v1/videos?${asked}`), take, miss: (id) => this.lost.add(id) });
  }

  // Runs of the videos with these words.
  find(words) {
    const more = words && `&${new URLSearchParams({ search: words })}`;
    return ["queued&order=asc", "completed", "failed"].map((asked) => this.run(`status=${asked}${more}`));
  }

  // A video that has just ended stands among the others, where it belongs.
  place(video) {
    const run = video.status === "failed" ? this.failed : this.completed;
    const isFound = !this.words || this.queued.ids.includes(video.id);
    if (!isFound || run.ids.includes(video.id)) return;
    const place = run.ids.findIndex((id) => this.age(id) >= this.age(video.id));
    if (place >= 0 || !run.hasMore) run.ids.splice(place < 0 ? run.ids.length : place, 0, video.id);
  }

  forget(id) {
    this.videos.delete(id);
    this.own.delete(id);
    for (const run of [this.running, this.queued, this.completed, this.failed]) run.drop(id);
  }

  // The begin of each, and a further page of what waits: however many there are, a look asks for no more. Videos that
  // were not seen at it, of those that are looked at and those that have left their place, are asked for by themselves.
  async walk(opened) {
    const { words } = this.search;
    const runs = words === this.words ? [this.queued, this.completed, this.failed] : this.find(words);
    this.seen.clear();
    for (const run of runs) await run.look();
    if (words !== this.search.words) return; // something else is looked for meanwhile
    this.words = words;
    [this.queued, this.completed, this.failed] = runs;
    let pages = 0;
    do await this.queued.onward();
    while (this.queued.hasMore && ++pages < HURRY);
    await this.running.look(MOST_RUNNING);
    const lost = [...this.lost].filter((id) => !this.seen.has(id));
    for (const id of new Set([...opened.filter((id) => !this.seen.has(id)), ...lost.slice(0, MOST_LOST)])) await this.askFor(id);
  }

  async askFor(id) {
    if (this.videos.has(id)) {
      const video = await this.api.get(`v1/videos/${id}`).catch((error) => (error.status === 404 ? null : Promise.reject(error)));
      if (video) this.take(video);
      else this.remove(id);
    }
    this.lost.delete(id);
  }

  // The next page of what is over: of the status of which least is known.
  async more() {
    const [run] = this.sources.filter(({ hasMore }) => hasMore).sort((a, b) => this.age(a.ids.at(-1)) - this.age(b.ids.at(-1)));
    await run?.more();
  }
}
