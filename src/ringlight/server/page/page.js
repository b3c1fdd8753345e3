// The page: its parts, and what the server says of itself.

import { Alerts } from "./alerts.js";
import { Api, asBody } from "./api.js";
import { Draft } from "./draft.js";
import { Form } from "./form.js";
import { Lock } from "./lock.js";
import { Shelf } from "./shelf.js";

const find = (id) => document.getElementById(id);
const READY_MS = 30_000, NOT_READY_MS = 2000; // between two looks at whether the server is ready

const lock = new Lock(find("lock"));
const watch = { isSilent: false, timer: 0 };
const api = new Api(askKey, () => {
  if (!watch.isSilent) watchReadiness(); // whoever noticed it, the header says so at once
});
const announce = (words) => (find("announcement").textContent = words);
const alerts = new Alerts(find("alerts"), announce);
const shelf = new Shelf(api, (video, pictures) => form.reuse(video, pictures), announce, alerts);
let order = {};
const form = new Form(find("composer"), async (fields, files, count) => {
  const asked = JSON.stringify([fields, count]), chosen = Object.values(files);
  const isAsBefore = asked === order.asked && chosen.every((file, place) => file === order.chosen[place]);
  if (!isAsBefore) order = { asked, chosen, key: newKey() };
  for (let number = 0; number < count; number++) {
    const each = fields.seed && number ? { ...fields, seed: String(BigInt(fields.seed) + BigInt(number)) } : fields;
    await shelf.create("v1/videos", asBody(each, files), { "idempotency-key": `${order.key}-${number}` });
  }
  order = {};
  draft.remember(fields.prompt);
});
const draft = new Draft(form);

find("theme").addEventListener("click", switchTheme);
find("forget").addEventListener("click", () => {
  api.forgetKey();
  draft.forget();
  location.reload();
});

const [models, version] = await describe();
form.open(models.data[0], version.layout);
draft.open();
shelf.model = models.data[0];
find("server").textContent = [models.data[0].id, version.layout, version.device, `v${version.version}`].filter(Boolean).join(" · ");
find("forget").hidden = !api.key;
await shelf.refresh();
shelf.follow();

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
  clearTimeout(watch.timer);
  watch.isSilent = true; // until it answers: one look at a time
  let [state, words] = ["ready", "Ready"];
  try {
    const said = await api.get("readyz");
    state = { asleep: "asleep", waking: "waiting" }[said.status] ?? "ready";
    if (said.message) words = said.message;
  } catch (error) {
    [state, words] = error.status ? ["waiting", error.message] : ["lost", error.message];
  }
  watch.isSilent = state === "lost";
  find("lamp").className = `lamp ${state}`;
  if (find("state").textContent !== words) find("state").textContent = words;
  clearTimeout(watch.timer);
  watch.timer = setTimeout(watchReadiness, state === "ready" ? READY_MS : NOT_READY_MS);
}

function switchTheme() {
  const { dataset } = document.documentElement;
  const systems = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  dataset.theme = (dataset.theme ?? systems) === "dark" ? "light" : "dark";
  localStorage.setItem("ringlight.theme", dataset.theme);
}

async function askKey(words) {
  const answer = await lock.ask(words);
  find("forget").hidden = false;
  return answer;
}
