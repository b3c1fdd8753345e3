// Title: what the tab says of the queue, and while nobody looks, what has ended.

export class Title {
  constructor() {
    this.ended = { completed: 0, failed: 0 }; // since somebody looked
    this.progress = null; // percent of what runs
    for (const [target, name] of [[document, "visibilitychange"], [window, "focus"]]) {
      target.addEventListener(name, () => this.look());
    }
  }

  get isSeen() {
    return !document.hidden && document.hasFocus();
  }

  look() {
    if (this.isSeen) this.ended = { completed: 0, failed: 0 };
    this.write();
  }

  // `first` is what is made first of all that is not over, if there is anything.
  show(first) {
    this.progress = first?.progress ?? null;
    this.write();
  }

  end(video) {
    if (!this.isSeen) this.ended[video.status] += 1;
    this.write();
  }

  write() {
    const { completed, failed } = this.ended;
    const parts = [completed && `✓ ${completed} done`, failed && `✗ ${failed} failed`, this.progress !== null && `${this.progress} %`];
    document.title = [...parts.filter(Boolean), "Ringlight"].join(" · ");
  }
}
