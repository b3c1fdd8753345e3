// Listing: the videos of this key as far as they are known, newest first, kept as the server has them.

import { isOver } from "./words.js";

const PAGE = 20, OLDER_PAGE = 100;

export class Listing {
  // take(video) hears what the server says of each, remove(id) which are not there any more.
  constructor(api, search, { take, remove }) {
    this.api = api;
    this.search = search;
    this.take = take;
    this.remove = remove;
    this.videos = new Map(); // by id, with those that are not in the list: what is looked for, and what is looked at
    this.ids = [];
    this.hasOlder = false;
  }

  // The finished ones that somebody wants to see.
  get finished() {
    const ids = this.search.isOn ? this.search.ids : this.ids;
    return ids.filter((id) => this.videos.has(id) && isOver(this.videos.get(id)));
  }

  get hasMore() {
    return this.search.isOn ? this.search.hasMore : this.hasOlder;
  }

  // What is not over, in the order in which it will be made.
  get unfinished() {
    const place = (video) => video.queue_position ?? 0;
    return [...this.videos.values()]
      .filter((video) => !isOver(video))
      .sort((a, b) => place(a) - place(b) || a.created_at - b.created_at);
  }

  add(video) {
    if (!this.ids.includes(video.id)) this.ids.unshift(video.id);
  }

  forget(id) {
    this.videos.delete(id);
    this.ids = this.ids.filter((one) => one !== id);
    this.search.ids = this.search.ids.filter((one) => one !== id);
  }

  // The newest page, and further ones as long as there are videos in them that are not over.
  async walk() {
    const known = new Set(this.ids);
    const waiting = new Set(this.unfinished.map(({ id }) => id));
    const seen = [];
    let page;
    do {
      page = await this.page(seen.at(-1));
      seen.push(...page.data.map((video) => video.id));
      for (const video of page.data) {
        this.take(video);
        waiting.delete(video.id);
      }
    } while (page.has_more && (waiting.size || !isOver(page.data.at(-1))));
    const isSeen = new Set(seen);
    const end = this.ids.findLastIndex((id) => isSeen.has(id));
    const fresh = this.ids.filter((id) => !known.has(id) && !isSeen.has(id)); // ordered here in the meantime
    const isFresh = new Set(fresh);
    const older = page.has_more ? this.ids.slice(end + 1).filter((id) => !isFresh.has(id)) : [];
    this.ids = [...fresh, ...seen, ...older];
    const isThere = new Set(this.ids);
    for (const id of known) if (!isThere.has(id)) this.remove(id);
    if (!older.length) this.hasOlder = page.has_more;
  }

  // A page of what is looked for, the first one or that after a video.
  async seek(after) {
    const { query } = this.search;
    const page = await this.page(after, `&${query}`);
    if (query !== this.search.query) return;
    page.data.forEach((video) => this.take(video));
    this.search.take(page, !after, query);
  }

  // The page after those that are known.
  async more() {
    if (this.search.isOn) return this.seek(this.search.ids.at(-1));
    const after = this.ids.at(-1);
    const page = await this.page(after);
    if (after !== this.ids.at(-1)) return; // it was looked at anew meanwhile
    page.data.forEach((video) => this.take(video));
    this.ids.push(...page.data.map((video) => video.id));
    this.hasOlder = page.has_more;
  }

  page(after, more = "") {
    return this.api.get(`v1/videos?limit=${after ? OLDER_PAGE : PAGE}${after ? `&after=${after}` : ""}${more}`);
  }
}
