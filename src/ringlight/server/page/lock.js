// Lock: the question for a key. Without one there is nothing to see, so it stays until it is answered.

export class Lock {
  constructor(dialog) {
    this.dialog = dialog;
    this.input = dialog.querySelector("#key");
    this.problem = dialog.querySelector(".problem");
    this.answer = null; // what resolves the question that is open
    dialog.addEventListener("close", () => this.answer && dialog.showModal()); // a browser closes any at a second Esc
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.take(this.input.value.trim());
    });
  }

  // Resolves to {key, remember} once somebody has typed one.
  ask(words) {
    this.say(words);
    return new Promise((resolve) => {
      this.answer = resolve;
      if (!this.dialog.open) this.dialog.showModal();
      this.input.select();
    });
  }

  take(key) {
    if (!/^[\x21-\x7e]+$/.test(key)) return this.say("A key is made of letters, digits and signs, without spaces.");
    const { answer } = this;
    this.answer = null;
    this.dialog.close();
    answer({ key, remember: this.dialog.querySelector("#remember").checked });
  }

  say(words) {
    this.problem.textContent = words;
    this.problem.hidden = !words;
  }
}
