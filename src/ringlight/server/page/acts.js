// Acts: what the buttons of a card do. Each gets the card, and throws an ApiError.

import { asBody } from "./api.js";
import { randomSeed } from "./form.js";

const WORDS_OF = { image: "the picture that it began with", last_image: "the picture that it ended with" };

export const path = (video) => `v1/videos/${encodeURIComponent(video.id)}`;

// By the data-do of the buttons. onReuse(video, pictures) puts settings into the form.
export function acts(api, shelf, onReuse) {
  // Never by an address elsewhere: this page may read only from its own server.
  const content = ({ video }, variant = "video") => `${path(video)}/content?variant=${variant}&redirect=false`;
  // For what the browser fetches by itself, as it comes and in parts, but without a key: then with a link.
  const open = async (card) => (api.key ? `${(await api.post(`${path(card.video)}/link`)).url.slice(1)}&redirect=false` : content(card));
  const given = async (card) => {
    const pictures = {};
    for (const name of card.video.pictures) pictures[name] = new File([await api.blob(content(card, name))], WORDS_OF[name]);
    return pictures;
  };
  return {
    cancel: async ({ video }) => shelf.put(await api.post(`${path(video)}/cancel`)),
    again: ({ video }) => shelf.create(`${path(video)}/remix`, { prompt: video.prompt, seed: randomSeed() }),
    retry: async (card) => {
      const { image, last_image } = await given(card);
      const { extended_from_video_id: source } = card.video;
      const [where, more] = source ? ["v1/videos/extensions", { video: source }] : ["v1/videos", { size: card.video.size }];
      const fields = { ...settings(card.video, shelf.model, Boolean(source)), ...more };
      await shelf.create(where, asBody(fields, { input_reference: source ? null : image, last_image }));
    },
    remix: ({ video }, fields) => shelf.create(`${path(video)}/remix`, fields),
    extend: ({ video }, fields, files) => shelf.create("v1/videos/extensions", asBody({ ...fields, video: video.id }, files)),
    reuse: async (card) => onReuse(card.video, await given(card)),
    compare: ({ video }) => shelf.compare(video),
    delete: async ({ video }) => {
      await api.send("DELETE", path(video));
      shelf.remove(video.id);
    },
    download: async (card) => save(await open(card)),
    source: open,
    check: (card) => api.send("HEAD", content(card)),
    poster: (card, signal) => api.blob(content(card, "thumbnail"), signal),
    report: ({ video }) => api.get(`${path(video)}/report`),
  };
}

// What a video was asked with; of an extension what it may say.
function settings(video, model, isExtension) {
  const left = isExtension ? ["width", "height", "fps"] : ["width", "height"];
  const fields = model.fields.filter(({ name, type }) => !left.includes(name) && video[name] != null && type !== "loras");
  const loras = video.lora?.length ? { lora: video.lora.map(({ name, strength, target }) => ({ name, strength, target })) } : {};
  return { prompt: video.prompt, ...Object.fromEntries(fields.map(({ name }) => [name, video[name]])), ...loras };
}

function save(href) {
  Object.assign(document.createElement("a"), { href, download: "" }).click(); // under the name that the server says
}
