// Run: the videos of one status in the server's order, as far as they are known, and a part of them seen anew at a time.

export const PAGE = 20, FURTHER_PAGE = 100;

export class Run {
  // ask(query) has a page of the list. take(video) hears of each that is there, miss(id) of those that are not any more.
  constructor(query, { ask, take, miss }) {
    this.query = query;
    this.hooks = { ask, take, miss };
    this.ids = [];
    this.hasMore = false; // behind those that are known
    this.mark = null; // to which the round has come
  }

  // Its first page.
  look(limit = PAGE) {
    return this.see(null, limit);
  }

  // The page behind all that are known.
  more() {
    return this.see(this.ids.at(-1), FURTHER_PAGE);
  }

  // A page behind the first one, another one each time: after a round all have been seen.
  async onward() {
    const after = this.ids.includes(this.mark) ? this.mark : this.ids[PAGE - 1];
    if (!after || !(this.hasMore || this.ids.length > PAGE)) return;
    const page = await this.see(after, FURTHER_PAGE);
    this.mark = page?.has_more ? page.data.at(-1).id : null;
  }

  async see(after, limit) {
    const { ask, take, miss } = this.hooks;
    let page;
    try {
      page = await ask(`limit=${limit}&${this.query}${after ? `&after=${after}` : ""}`);
    } catch (error) {
      if (!after || error.status !== 404) throw error;
      this.drop(after);
      miss(after);
      return null;
    }
    page.data.forEach(take);
    const seen = page.data.map(({ id }) => id), isSeen = new Set(seen);
    const begin = after ? this.ids.indexOf(after) + 1 : 0;
    const before = this.ids.slice(0, begin).filter((id) => !isSeen.has(id));
    let end = page.has_more ? this.ids.findLastIndex((id) => isSeen.has(id)) + 1 : this.ids.length;
    if (end > begin || !page.has_more) this.ids.slice(begin, end).filter((id) => !isSeen.has(id)).forEach(miss);
    else end = this.ids.length; // none is known of those that were seen, so what lies between them and the others is not
    if (end === this.ids.length) this.hasMore = page.has_more;
    this.ids = [...before, ...seen, ...this.ids.slice(end)];
    return page;
  }

  drop(id) {
    this.ids = this.ids.filter((one) => one !== id);
  }
}
