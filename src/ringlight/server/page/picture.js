// Picture: a frame of a video, chosen; the first one may also be dropped anywhere on the page, or pasted.

export class Picture {
  // onFit(width, height) is asked for a size of the picture's own shape; onSeen tells of the size of one that has been
  // chosen, or with nothing that there is none any more. Without onFit the video's shape follows from another picture.
  // onChange(words) is told what is wrong with a file that is none; a film goes to onFilm.
  constructor(root, onChange, onFit, onSeen, onFilm = null) {
    this.root = root;
    this.input = root.querySelector("input");
    this.shown = root.querySelector("img");
    this.onChange = onChange;
    this.onFilm = onFilm;
    this.file = null;
    this.isWanted = true; // whether the model takes one
    this.size = [0, 0];
    this.input.addEventListener("change", () => this.input.files.length && this.offer(this.input.files[0]));
    this.onSeen = onSeen;
    this.shown.addEventListener("error", () => (this.shown.hidden = true)); // the server may know more kinds
    this.shown.addEventListener("load", () => {
      onSeen(this.shown.naturalWidth, this.shown.naturalHeight);
      this.describe(this.size);
    });
    this.fit = root.querySelector("[data-do=fit]");
    this.fit?.addEventListener("click", () => onFit(this.shown.naturalWidth, this.shown.naturalHeight));
    root.querySelector("[data-do=remove]").addEventListener("click", () => {
      this.choose(null);
      this.input.focus();
    });
    if (onFit) this.listen();
  }

  // A picture may be dropped anywhere on the page, and pasted in any field.
  listen() {
    const hasFile = (event) => event.dataTransfer?.types.includes("Files");
    const want = (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      this.root.classList.add("wanted");
    };
    addEventListener("dragenter", want);
    addEventListener("dragover", want);
    addEventListener("dragleave", (event) => event.relatedTarget ?? this.root.classList.remove("wanted"));
    addEventListener("drop", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      this.root.classList.remove("wanted");
      if (event.dataTransfer.files.length) this.offer(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
      if (file) this.choose(file);
    });
  }

  // A file that somebody has brought, whatever it is. One of a kind that the browser does not know may be a picture.
  offer(file) {
    if (this.onFilm && file.type.startsWith("video/")) return this.onFilm(file);
    if (!file.type || file.type.startsWith("image/")) return this.choose(file);
    this.input.value = "";
    this.onChange(`${file.name} is no picture but ${file.type}: choose a JPEG, PNG or WebP.`);
  }

  choose(file) {
    if (!this.isWanted) return;
    this.file = file;
    this.input.value = "";
    URL.revokeObjectURL(this.shown.src);
    this.shown.hidden = false;
    if (file) this.shown.src = URL.createObjectURL(file);
    else this.shown.removeAttribute("src");
    if (!file) this.onSeen();
    this.root.querySelector(".chosen").hidden = !file;
    this.root.querySelector(".empty-drop").hidden = Boolean(file);
    this.root.querySelector(".name").textContent = file?.name ?? "";
    this.root.querySelector(".shape").textContent = "";
    this.onChange();
  }

  // What becomes of the picture in a video of this size; nothing is said of what the browser cannot show.
  describe([width, height]) {
    this.size = [width, height];
    const { naturalWidth: own, naturalHeight: high } = this.shown;
    const isCut = own > 0 && Math.abs((own / high) * (height / width) - 1) > 0.02;
    const words = isCut ? `${own} × ${high}, will be cut to the shape of ${width} × ${height}` : `${own} × ${high}`;
    this.root.querySelector(".shape").textContent = own ? words : "";
    if (this.fit) this.fit.hidden = !isCut;
  }
}
