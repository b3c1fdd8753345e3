// Search: which finished videos are looked for, and those that the server finds.

const PAUSE_MS = 250; // after a key, before the server is asked

export class Search {
  // `root` has a field of words and a choice of status. onChange() is called once something else is looked for.
  constructor(root, onChange) {
    this.words = root.querySelector("[type=search]");
    this.status = root.querySelector("select");
    this.ids = []; // newest first
    this.found = ""; // the query that these answer
    this.hasMore = false;
    this.timer = 0;
    this.words.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(onChange, PAUSE_MS);
    });
    this.status.addEventListener("change", onChange);
  }

  get isOn() {
    return Boolean(this.words.value.trim() || this.status.value);
  }

  // As part of a URL.
  get query() {
    const asked = new URLSearchParams({ search: this.words.value.trim().slice(0, 200) });
    if (this.status.value) asked.set("status", this.status.value);
    return asked.toString();
  }

  // A page of what was found; the first one goes before what is known of later ones.
  take(page, isFirst, query) {
    if (query !== this.found) this.ids = [];
    this.found = query;
    const ids = page.data.map((video) => video.id);
    const end = this.ids.findLastIndex((id) => ids.includes(id));
    this.ids = isFirst ? [...ids, ...(end < 0 ? [] : this.ids.slice(end + 1))] : [...this.ids, ...ids];
    if (!isFirst || this.ids.length === ids.length) this.hasMore = page.has_more;
  }
}
