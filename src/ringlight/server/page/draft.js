// Draft: what is kept of the form in this browser: its fields as they stand, prompts that were used, own presets.

const DRAFT = "ringlight.draft", PROMPTS = "ringlight.prompts", PRESETS = "ringlight.presets";
const MOST_PROMPTS = 30, PAUSE_MS = 300;

export class Draft {
  constructor(form) {
    this.form = form;
    this.timer = 0;
    this.isTouched = false;
    this.choice = form.root.querySelector("#own");
    this.name = form.root.querySelector("#own-name");
    for (const name of ["input", "change", "click"]) form.root.addEventListener(name, () => this.saveSoon());
    addEventListener("pagehide", () => this.save());
    this.choice.addEventListener("change", () => this.use(this.choice.value));
    form.root.querySelector("#keep").addEventListener("click", () => this.keep(this.name.value.trim()));
    form.root.querySelector("#drop-own").addEventListener("click", () => this.drop(this.choice.value));
  }

  // The form knows its model: it becomes as it was left.
  open() {
    const kept = read(DRAFT, null);
    if (kept) this.form.write(kept.fields);
    if (kept) this.form.sizeIsAsked = kept.sizeIsAsked;
    this.show();
  }

  saveSoon() {
    this.isTouched = this.form.model !== null; // what nobody has touched follows the server's defaults
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), PAUSE_MS);
  }

  save() {
    if (this.isTouched) write(DRAFT, { fields: this.form.read(), sizeIsAsked: this.form.sizeIsAsked });
  }

  remember(prompt) {
    write(PROMPTS, [prompt, ...read(PROMPTS, []).filter((one) => one !== prompt)].slice(0, MOST_PROMPTS));
    this.show();
  }

  // All but the prompt, under a name.
  keep(name) {
    if (!name) return this.name.focus();
    const { prompt: _, seed: __, ...settings } = this.form.read();
    write(PRESETS, { ...read(PRESETS, {}), [name]: settings });
    this.name.value = "";
    this.show(name);
  }

  use(name) {
    const { prompt, seed } = this.form.read();
    const settings = read(PRESETS, {})[name];
    if (settings) this.form.write({ ...settings, prompt, seed });
  }

  drop(name) {
    const { [name]: _, ...others } = read(PRESETS, {});
    write(PRESETS, others);
    this.show();
    this.choice.focus();
  }

  show(chosen = "") {
    this.form.offerPrompts("#history", read(PROMPTS, []));
    const names = Object.keys(read(PRESETS, {})).sort();
    this.choice.replaceChildren(new Option(names.length ? "Choose one" : "None yet", ""), ...names.map((name) => new Option(name, name)));
    this.choice.value = chosen;
    this.choice.disabled = !names.length;
  }

  forget() {
    this.isTouched = false;
    clearTimeout(this.timer);
    for (const name of [DRAFT, PROMPTS, PRESETS]) localStorage.removeItem(name);
  }
}

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise; // written by another version
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    console.info(`${name} has no room in this browser`);
  }
}
