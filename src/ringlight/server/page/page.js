// The page: its parts, and what the server says of itself.

import { Api, asBody } from "./api.js";
import { Form } from "./form.js";
import { Shelf } from "./shelf.js";

const find = (id) => document.getElementById(id);
const READY_MS = 30_000, NOT_READY_MS = 2000; // between two looks at whether the server is ready

const api = new Api(askKey);
const shelf = new Shelf(api, (video) => form.reuse(video), (words) => (find("announcement").textContent = words));
let order = {};
const form = new Form(find("composer"), async (fields, files) => {
  const asked = JSON.stringify(fields), chosen = Object.values(files);
  const isAsBefore = asked === order.asked && chosen.every((file, place) => file === order.chosen[place]);
  if (!isAsBefore) order = { asked, chosen, key: newKey() };
  await shelf.create("v1/videos", asBody(fields, files), { "idempotency-key": order.key });
  order = {};
});

find("theme").addEventListener("click", switchTheme);
find("forget").addEventListener("click", () => {
  api.forgetKey();
  location.reload();
});

const [models, version] = await describe();
form.open(models.data[0], version.layout);
shelf.model = models.data[0];
find("server").textContent = [models.data[0].id, version.layout, version.device, `v${version.version}`].filter(Boolean).join(" · ");
find("forget").hidden = !api.key;
shelf.refresh();

// An order that is sent again after a lost answer has the same key, and is made once.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What the server serves; waits for one that does not answer yet.
async function describe() {
  watchReadiness();
  for (;;) {
    try {
      return await Promise.all([api.get("v1/models"), api.get("version")]);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, NOT_READY_MS)); // the header says why
    }
  }
}

async function watchReadiness() {
  let [state, words] = ["ready", "Ready"];
  try {
    const said = await api.get("readyz");
    state = { asleep: "asleep", waking: "waiting" }[said.status] ?? "ready";
    if (said.message) words = said.message;
  } catch (error) {
    [state, words] = error.status ? ["waiting", error.message] : ["lost", error.message];
  }
  find("lamp").className = `lamp ${state}`;
  if (find("state").textContent !== words) find("state").textContent = words;
  setTimeout(watchReadiness, words === "Ready" ? READY_MS : NOT_READY_MS);
}

function switchTheme() {
  const { dataset } = document.documentElement;
  const systems = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  dataset.theme = (dataset.theme ?? systems) === "dark" ? "light" : "dark";
  localStorage.setItem("ringlight.theme", dataset.theme);
}

// Resolves to the key that somebody types. Without one there is nothing to see, so it cannot be closed.
function askKey(words) {
  const dialog = find("lock"), input = find("key"), problem = dialog.querySelector(".problem");
  problem.textContent = words;
  problem.hidden = !words;
  dialog.oncancel = (event) => event.preventDefault();
  if (!dialog.open) dialog.showModal();
  input.select();
  return new Promise((resolve) => {
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!/^[\x21-\x7e]+$/.test(key)) {
        problem.textContent = "A key is made of letters, digits and signs, without spaces.";
        problem.hidden = false;
        return;
      }
      dialog.close();
      find("forget").hidden = false;
      resolve({ key, remember: find("remember").checked });
    };
  });
}
