// Loras: those that a video is to have, each with its strength, and of a model with two experts, on which of them.

const TARGETS = { both: "both experts", high: "high noise", low: "low noise" };

export class Loras {
  // `root` has a list, and a select of those that may be added.
  constructor(root, onChange) {
    this.root = root;
    this.list = root.querySelector("ul");
    this.adder = root.querySelector("select");
    this.onChange = onChange;
    this.offered = [];
    this.hasExperts = false;
    this.adder.addEventListener("change", () => {
      const found = this.offered.find(({ name }) => name === this.adder.value);
      if (found) this.add(found).querySelector("input").select();
      this.offer();
    });
  }

  // `model` is an entry of /v1/models, and `chosen` what is asked for where nobody says anything.
  open(model, chosen) {
    this.offered = model.loras.filter((lora) => !lora.is_always_on && !lora.problem);
    this.hasExperts = model.has_experts;
    const always = model.loras.filter((lora) => lora.is_always_on);
    const words = this.root.querySelector(".always");
    words.textContent = always.length ? `In every video: ${always.map(loraWords).join(", ")}` : "";
    words.hidden = !always.length;
    this.tell(model.loras.filter((lora) => lora.problem));
    this.adder.hidden = !this.offered.length;
    this.root.hidden = !model.loras.length;
    this.write(chosen);
  }

  // Why some files cannot be used.
  tell(unusable) {
    const box = this.root.querySelector(".unusable");
    const lines = unusable.map(({ name, problem }) => Object.assign(document.createElement("p"), { textContent: `${name}: ${problem}` }));
    box.querySelector("summary").textContent = `${unusable.length} cannot be used`;
    box.querySelector("div").replaceChildren(...lines);
    box.hidden = !unusable.length;
  }

  // Those of a video, without what every video has, and without what is not there any more.
  write(loras) {
    this.list.replaceChildren();
    for (const lora of loras) if (this.offered.some(({ name }) => name === lora.name)) this.add(lora);
    this.offer();
  }

  // What is sent: a strength that is none goes as it is, for the server to name.
  read() {
    return [...this.list.children].map((row) => {
      const strength = row.querySelector("input"), target = row.querySelector("select");
      const lora = { name: row.dataset.name, strength: strength.validity.badInput ? "not a number" : strength.value || "1" };
      return target ? { ...lora, target: target.value } : lora;
    });
  }

  offer() {
    const taken = new Set([...this.list.children].map((row) => row.dataset.name));
    const left = this.offered.filter(({ name }) => !taken.has(name));
    this.adder.replaceChildren(new Option(left.length ? "Add a LoRA" : "All are there", ""), ...left.map(({ name }) => new Option(name, name)));
    this.adder.disabled = !left.length;
  }

  add({ name, strength = 1, target = "both" }) {
    const row = document.createElement("li");
    row.dataset.name = name;
    const words = Object.assign(document.createElement("span"), { textContent: name });
    const input = Object.assign(document.createElement("input"), { type: "number", step: "any", value: strength, inputMode: "decimal" });
    input.setAttribute("aria-label", `Strength of ${name}`);
    row.append(words, input);
    if (this.hasExperts) row.append(this.targetOf(name, target));
    row.append(this.removerOf(name, row));
    this.list.append(row);
    return row;
  }

  targetOf(name, target) {
    const select = document.createElement("select");
    select.append(...Object.entries(TARGETS).map(([value, words]) => new Option(words, value)));
    select.value = target;
    select.setAttribute("aria-label", `Where ${name} works`);
    return select;
  }

  removerOf(name, row) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: "Remove" });
    button.setAttribute("aria-label", `Remove ${name}`);
    button.addEventListener("click", () => {
      row.remove();
      this.offer();
      this.adder.focus();
      this.onChange();
    });
    return button;
  }
}

// A LoRA of a video in words.
export function loraWords({ name, strength, target }) {
  const on = target === "both" ? "" : `, ${TARGETS[target]}`;
  return `${name} ${Number(strength.toFixed(3))}${on}`;
}
