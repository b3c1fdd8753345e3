// Form: what is asked of the server, and the words about it beside the field they are about.
// Its fields are those of /v1/models: the page has places for some of them, the others stand among the advanced ones.

import { readComment } from "./comment.js";
import { boxOf, inputOf, problemWords } from "./fields.js";
import { Loras } from "./loras.js";
import { Picture } from "./picture.js";

const LONGEST_SHAPE = 3, MOST_AT_ONCE = 16, MOST_SHOWN = 120;

export class Form {
  // onSubmit(fields, files, count) resolves once the server has accepted, or throws an ApiError.
  constructor(root, onSubmit) {
    this.root = root;
    this.fields = root.elements;
    this.seconds = root.querySelector("#seconds");
    this.onSubmit = onSubmit;
    this.model = null;
    this.brought = []; // names of fields that came with the choice of another one
    this.sizeIsAsked = false; // until then the size follows the picture, as it does on the server
    const fit = (width, height) => {
      [this.fields.width.value, this.fields.height.value] = this.sizeLike(width, height);
      this.mark();
    };
    const seen = (width, height) => {
      if (!this.sizeIsAsked && this.model) fit(width ?? this.model.defaults.width, height ?? this.model.defaults.height);
    };
    const changed = (words) => this.complain(words && { param: "input_reference", message: words });
    this.picture = new Picture(root.querySelector("#drop"), changed, fit, seen, (film) => this.reuseFilm(film));
    this.last = new Picture(root.querySelector("#drop-last"), (words) => this.complain(words && { param: "last_image", message: words }), null, () => {});
    this.loras = new Loras(root.querySelector("#loras"), () => this.complain());
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) root.requestSubmit();
    });
    root.addEventListener("focusin", (event) => event.target.scrollIntoView({ block: "nearest" })); // all of it, not the caret alone
    root.addEventListener("input", (event) => this.follow(event.target));
    root.querySelector("#die").addEventListener("click", () => {
      this.fields.seed.value = randomSeed();
    });
  }

  // The server's defaults become the form's. `model` is an entry of /v1/models.
  open(model, layout) {
    this.model = model;
    for (const field of model.fields) this.place(field);
    this.root.querySelector("[data-field~=input_reference]").hidden = !model.takes_picture;
    this.picture.isWanted = model.takes_picture;
    this.root.querySelector("[data-field=last_image]").hidden = !model.takes_last_picture;
    for (const [label, isNeeded] of [["#picture-label", model.needs_picture], ["#last-label", model.needs_last_picture]]) {
      this.root.querySelector(`${label} small`).textContent = isNeeded ? "needed: no video without one" : "optional";
    }
    this.offerPrompts("#examples", model.examples);
    this.describePresets();
    const layouts = layoutsLike(layout);
    const choice = new Option(`The server's choice (${layout})`, "");
    this.fields.layout.replaceChildren(choice, ...layouts.map((name) => new Option(name, name)));
    this.root.querySelector("[data-field=layout]").hidden = layouts.length < 2;
    this.mark();
  }

  // Prompts that a click puts into the form, in the list of this name; it is hidden where there are none.
  offerPrompts(name, prompts) {
    const items = prompts.map((prompt) => {
      const words = prompt.slice(0, MOST_SHOWN);
      const button = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: words });
      button.addEventListener("click", () => {
        this.fields.prompt.value = prompt;
        this.complain();
        this.fields.prompt.focus();
      });
      const item = document.createElement("li");
      item.append(button);
      return item;
    });
    const list = this.root.querySelector(name);
    list.hidden = !items.length;
    list.querySelector("ul").replaceChildren(...items);
  }

  place(field) {
    if (field.type === "loras") return this.loras.open(this.model, field.default);
    const slot = this.root.querySelector(`[data-slot="${field.name}"]`);
    const label = slot?.getAttribute("aria-label");
    if (slot) slot.replaceWith(label ? inputOf(field, label) : boxOf(field));
    else if (!this.fields[field.name]) this.root.querySelector("#rest").append(boxOf(field));
    this.fields[field.name].value = field.default ?? "";
  }

  // A sampler that fixes its steps has the same in all of them.
  presets() {
    const { num_inference_steps: usual, num_frames: frames } = this.model.defaults;
    const steps = (share) => this.broughtBy(this.fields.sampler).num_inference_steps ?? Math.max(1, Math.round(usual * share));
    return {
      draft: { steps: steps(0.4), frames: this.nearestFrames(frames / 2) },
      standard: { steps: steps(1), frames },
      best: { steps: steps(1.5), frames },
    };
  }

  describePresets() {
    for (const [name, preset] of Object.entries(this.presets())) {
      const words = this.root.querySelector(`[name=preset][value=${name}] + span small`);
      words.textContent = `${preset.steps} steps · ${(preset.frames / this.model.defaults.fps).toFixed(1)} s`;
    }
  }

  // What else is set by the choice that a field has.
  broughtBy(input) {
    const { choices = [] } = this.model.fields.find(({ name }) => name === input.name) ?? {};
    return choices.find(({ value }) => value === input.value)?.brings ?? {};
  }

  // Set it, and what the choice before had set as it is by default.
  bring(input) {
    const values = this.broughtBy(input);
    for (const name of new Set([...this.brought, ...Object.keys(values)])) {
      this.fields[name].value = values[name] ?? this.model.defaults[name] ?? "";
    }
    this.brought = Object.keys(values);
    this.describePresets();
  }

  shapes() {
    const { width, height } = this.model.defaults;
    const [long, short] = [Math.max(width, height), Math.min(width, height)];
    return { landscape: [long, short], portrait: [short, long], square: this.sizeLike(1, 1) };
  }

  // At most as many pixels as the default size has, nearest to the shape of width : height. As core/sizes.py.
  sizeLike(width, height) {
    const { defaults, width_multiple, height_multiple } = this.model;
    const shape = Math.min(Math.max(width / height, 1 / LONGEST_SHAPE), LONGEST_SHAPE);
    const area = Math.min(defaults.width * defaults.height, this.model.limits.max_pixels);
    const down = (length, multiple) => Math.max(1, Math.floor(length / multiple)) * multiple;
    const wide = down(Math.sqrt(area * shape), width_multiple);
    const high = down(Math.sqrt(area / shape), height_multiple);
    const found = [[wide, down(area / wide, height_multiple)], [down(area / high, width_multiple), high], [wide, high]];
    const strain = ([one, other]) => Math.abs(Math.log(one / other / shape));
    return found.reduce((best, size) => (strain(size) < strain(best) ? size : best));
  }

  nearestFrames(frames) {
    const multiple = this.model.frame_multiple;
    return Math.max(0, Math.round((frames - 1) / multiple)) * multiple + 1;
  }

  // One field was changed: those that say the same in other words follow.
  follow(field) {
    this.complain();
    if (!this.model) return;
    const { width, height, num_frames: frames, fps, num_inference_steps: steps } = this.fields;
    if (["shape", "width", "height"].includes(field.name)) this.sizeIsAsked = true;
    if (field.value === "custom") return width.focus();
    if (field.name === "shape") [width.value, height.value] = this.shapes()[field.value];
    if (field.name === "preset") ({ steps: steps.value, frames: frames.value } = this.presets()[field.value]);
    if (field.name === "sigmas" && field.value.trim()) steps.value = field.value.split(",").filter((each) => each.trim()).length;
    if (field.tagName === "SELECT" && this.model.fields.some(({ name }) => name === field.name)) this.bring(field);
    if (field === this.seconds && field.value > 0) frames.value = this.nearestFrames(field.value * fps.value);
    this.mark(field === this.seconds);
  }

  // Which of the choices the numbers are, and how long that is.
  mark(keepSeconds = false) {
    const { shape, preset, width, height, num_frames: frames, fps, num_inference_steps: steps } = this.fields;
    const size = [Number(width.value), Number(height.value)];
    const shapeName = nameOf(this.shapes(), ([wide, high]) => wide === size[0] && high === size[1]);
    shape.value = shapeName ?? "custom";
    const isLikeThis = (one) => one.steps === Number(steps.value) && one.frames === Number(frames.value);
    const presets = this.presets(); // of which two may be alike
    const presetName = presets[preset.value] && isLikeThis(presets[preset.value]) ? preset.value : nameOf(presets, isLikeThis);
    for (const option of preset) option.checked = option.value === presetName;
    const length = frames.value / fps.value;
    if (!keepSeconds) this.seconds.value = Number.isFinite(length) ? Number(length.toFixed(2)) : "";
    this.picture.describe(size);
    this.last.describe(size);
  }

  // The settings of a video that was made before, and the pictures (files) that it was given.
  reuse(video, { image = null, last_image: last = null } = {}) {
    this.write(video);
    this.picture.choose(image);
    this.last.choose(last);
    this.complain();
    this.fields.prompt.focus();
  }

  // Those that a film holds in its file.
  async reuseFilm(film) {
    const settings = this.model && (await readComment(film));
    if (settings) return this.reuse(settings);
    this.complain({ param: "input_reference", message: `${film.name} carries no settings: it is no MP4 of Ringlight's, or of a server that leaves them out. To begin with a frame of it, take a picture.` });
  }

  write(video) {
    this.sizeIsAsked = true;
    const inputs = this.model.fields.filter(({ type }) => type !== "loras").map(({ name }) => name);
    for (const name of ["prompt", ...inputs]) this.fields[name].value = video[name] ?? "";
    this.loras.write(video.lora ?? []);
    this.brought = Object.keys(this.broughtBy(this.fields.sampler));
    this.describePresets();
    const isOffered = [...this.fields.layout.options].some((option) => option.value === video.layout);
    this.fields.layout.value = isOffered ? video.layout : "";
    this.mark();
  }

  // What is sent. A number that is none goes as it is, for the server to name.
  read() {
    const fields = { prompt: this.fields.prompt.value };
    for (const { name, type } of [...(this.model?.fields ?? []), { name: "layout" }]) {
      if (type === "loras") {
        if (!this.loras.root.hidden) fields[name] = this.loras.read();
        continue;
      }
      const { value, validity } = this.fields[name];
      if (validity.badInput) fields[name] = "not a number";
      else if (type === "string") fields[name] = value;
      else if (value.trim()) fields[name] = value.trim();
    }
    return fields;
  }

  // The first field that cannot be right, as an error: a length that is none, a picture that the model needs.
  lacking() {
    const { value, validity } = this.seconds;
    if (validity.badInput || (value && !(value > 0))) return { param: "seconds", message: "A video is longer than 0 seconds." };
    const count = Number(this.fields.count.value || 1);
    if (!(Number.isInteger(count) && count >= 1 && count <= MOST_AT_ONCE)) return { param: "count", message: `Write a number from 1 to ${MOST_AT_ONCE}.` };
    const { needs_picture: first, needs_last_picture: last } = this.model ?? {};
    const pictures = [["input_reference", first, this.picture, "begins"], ["last_image", last, this.last, "ends"]];
    const found = pictures.find(([, isNeeded, picture]) => isNeeded && !picture.file);
    return found && { param: found[0], message: `This model makes no video without the picture that it ${found[3]} with.` };
  }

  async submit() {
    const button = this.root.querySelector("[type=submit]");
    if (button.disabled) return;
    const problem = this.lacking();
    this.complain(problem);
    if (problem) return;
    button.disabled = true;
    try {
      await this.onSubmit(this.read(), { input_reference: this.picture.file, last_image: this.last.file }, Number(this.fields.count.value || 1));
    } catch (error) {
      this.complain(error);
    } finally {
      button.disabled = false;
    }
  }

  // The error's words beside the field that it names, else above the button. Without an error the old ones go.
  complain(error = null) {
    this.root.querySelector("#field-problem")?.remove();
    for (const input of this.root.querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    }
    const name = error?.param && CSS.escape(error.param.split(".")[0]);
    const place = name && this.root.querySelector(`[data-field~="${name}"]`);
    const general = this.root.querySelector("#problem");
    general.textContent = error && !place ? error.message : "";
    general.hidden = !general.textContent;
    if (!place) return;
    const words = Object.assign(document.createElement("p"), { id: "field-problem", className: "problem", textContent: error.code ? problemWords(error, this.model.fields) : error.message });
    words.setAttribute("role", "alert");
    place.append(words);
    const folded = place.closest("details");
    if (folded) folded.open = true;
    const input = place.querySelector(`[name="${name}"]`) ?? place.querySelector("input:not([type=radio]), textarea, select");
    if (!input) return;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", words.id);
    input.focus();
  }
}

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

function nameOf(table, isIt) {
  return Object.keys(table).find((name) => isIt(table[name]));
}

// All layouts with as many ranks as this one: guidance branches (c) x Ulysses (u) x ring (r).
function layoutsLike(name) {
  const [, branches = 1, ulysses, ring] = /^(?:c(\d+))?u(\d+)r(\d+)$/.exec(name) ?? [];
  const ranks = branches * ulysses * ring;
  const found = [];
  for (const c of [1, 2]) {
    for (let u = 1; u <= ranks / c; u++) {
      if (ranks % (c * u) === 0) found.push(`${c > 1 ? `c${c}` : ""}u${u}r${ranks / c / u}`);
    }
  }
  return found;
}
