// Alerts: notifications of the system about videos that end while nobody looks; only where somebody has asked for them.

const WANTED = "ringlight.alerts";

export class Alerts {
  // `button` is shown where the browser can notify; `say` tells why it may not.
  constructor(button, say) {
    this.button = button;
    button.hidden = !("Notification" in window) || !isSecureContext;
    button.addEventListener("click", () => this.turn(say));
    this.mark();
  }

  get isOn() {
    return !this.button.hidden && localStorage.getItem(WANTED) === "yes" && Notification.permission === "granted";
  }

  async turn(say) {
    if (this.isOn) localStorage.removeItem(WANTED);
    else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(WANTED, "yes");
    else say("This browser does not allow notifications of this page; its settings of the site say so.");
    this.mark();
  }

  mark() {
    this.button.setAttribute("aria-pressed", this.isOn);
    this.button.title = this.isOn ? "You are told when a video is done" : "Tell me when a video is done";
  }

  tell(words, video) {
    if (!this.isOn) return;
    const notification = new Notification(words, { body: video.prompt.slice(0, 120), tag: video.id });
    notification.onclick = () => {
      window.focus();
      location.hash = `#/videos/${video.id}`;
    };
  }
}
