// Grid: any number of videos as tiles, of which those near the screen are elements, and no others.

const MARGIN = 1; // screens above and below the one that is seen

export class Grid {
  // cardOf(id) makes the card of a tile, or finds it. onMove() is called once other ones are near, onEnd() where the end
  // of what is known is.
  constructor(root, { cardOf, onMove, onEnd }) {
    this.root = root;
    this.cardOf = cardOf;
    this.onMove = onMove;
    this.onEnd = onEnd;
    this.ids = [];
    this.near = new Map(); // the tiles that are elements, by id, in their order
    this.extent = ""; // what was placed last
    this.frame = 0;
    const look = () => (this.frame ||= requestAnimationFrame(() => this.move()));
    addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(root);
    addEventListener("resize", look);
  }

  // Show these, and say of how many: `isAll` or as far as is known.
  show(ids, isAll) {
    this.ids = ids;
    this.size = isAll ? ids.length : -1;
    this.extent = "";
    this.near.clear();
    this.place();
  }

  move() {
    this.frame = 0;
    if (!this.root.checkVisibility()) return;
    this.place();
    this.onMove();
    const { bottom } = this.root.getBoundingClientRect();
    if (bottom < (1 + MARGIN) * innerHeight) this.onEnd();
  }

  // Have the tiles near the screen in their places, and the one with the focus wherever it is.
  place() {
    const { columns, row } = this.measure();
    const [first, last] = [columns * row(-MARGIN * innerHeight), columns * (row((1 + MARGIN) * innerHeight) + 1)];
    const extent = [columns, first, last].join();
    if (extent === this.extent) return;
    const isRegular = this.extent.startsWith(`${columns},`);
    this.extent = extent;
    const order = this.ids.slice(first, last).map((id, place) => [id, first + place]);
    const focused = document.activeElement?.closest("#videos > .card")?.dataset.id;
    const kept = focused ? this.ids.indexOf(focused) : -1;
    if (kept >= 0 && kept < first) order.unshift([focused, kept]);
    if (kept >= last) order.push([focused, kept]);
    const before = isRegular ? this.near : new Map();
    this.near = new Map(order.map(([id, place]) => [id, before.get(id) ?? this.tile(id, place, columns)]));
    for (const root of [...this.root.children]) if (!this.near.has(root.dataset.id)) root.remove();
    lay(this.root, [...this.near.values()]);
  }

  tile(id, place, columns) {
    const { root } = this.cardOf(id);
    root.style.setProperty("--row", Math.floor(place / columns) + 1);
    root.style.setProperty("--place", (place % columns) + 1);
    root.setAttribute("aria-posinset", place + 1);
    root.setAttribute("aria-setsize", this.size);
    return root;
  }

  // How many stand in a row, and which row is at so many pixels below the screen's upper edge. The style sheet makes rows
  // as high as they are by the width of a column.
  measure() {
    const style = getComputedStyle(this.root), tracks = style.gridTemplateColumns.split(" ");
    const rows = Math.max(1, Math.ceil(this.ids.length / tracks.length));
    this.root.style.setProperty("--column", tracks[0]);
    this.root.style.setProperty("--rows", rows);
    const { top, height } = this.root.getBoundingClientRect();
    const stride = (height + parseFloat(style.rowGap)) / rows;
    return { columns: tracks.length, top, stride, row: (y) => Math.min(rows - 1, Math.max(0, Math.floor((y - top) / stride))) };
  }

  // Scroll so that this one is seen.
  reveal(id) {
    const { columns, top, stride } = this.measure();
    const y = top + stride * Math.floor(this.ids.indexOf(id) / columns);
    if (y < 0 || y + stride > innerHeight) scrollBy({ top: y - (innerHeight - stride) / 2, behavior: "instant" });
    this.place();
  }
}

// Put elements into this order; those that are in their place stay untouched, and the one with the focus keeps it.
export function lay(parent, elements) {
  const focused = document.activeElement;
  for (const [position, element] of elements.entries()) {
    if (parent.children[position] !== element) parent.insertBefore(element, parent.children[position] ?? null);
  }
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}
