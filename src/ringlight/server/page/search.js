// Search: which videos are looked for.

const PAUSE_MS = 250; // after a key, before the server is asked
const MAX_CHARS = 200;

export class Search {
  // `root` has a field of words and a choice of status. onChange() is called once something else is looked for.
  constructor(root, onChange) {
    this.field = root.querySelector("[type=search]");
    this.choice = root.querySelector("select");
    this.timer = 0;
    this.field.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(onChange, PAUSE_MS);
    });
    this.choice.addEventListener("change", onChange);
  }

  get isOn() {
    return Boolean(this.words || this.status);
  }

  // As the server takes them.
  get words() {
    return this.field.value.trim().slice(0, MAX_CHARS);
  }

  // Of what is over; "" has all.
  get status() {
    return this.choice.value;
  }
}
