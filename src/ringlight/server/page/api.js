// Api: requests to the server this page came from, with the key where one is needed.

const KEY = "ringlight.key";

export class ApiError extends Error {
  constructor(status, { message, code = "error", param = null }) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

export class Api {
  // askKey(words) resolves to {key, remember} once somebody has typed one; onSilence() hears that there was no answer.
  constructor(askKey, onSilence) {
    this.askKey = askKey;
    this.onSilence = onSilence;
    this.asking = null;
  }

  get key() {
    return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
  }

  forgetKey() {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
  }

  // The response. Throws ApiError for what the server refuses, and where it does not answer (status 0).
  async send(method, path, { body, headers = {}, signal } = {}) {
    for (;;) {
      const key = this.key;
      const sent = { ...headers, ...(key && { authorization: `Bearer ${key}` }) };
      let response;
      try {
        response = await fetch(path, { method, body, signal, headers: sent });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        this.onSilence();
        throw new ApiError(0, { message: "The server does not answer. Is it running?", code: "unreachable" });
      }
      if (response.ok) return response;
      const error = await readError(response);
      if (response.status !== 401) throw error;
      if (key === this.key) await this.unlock(key ? error.message : "");
    }
  }

  async get(path) {
    return (await this.send("GET", path)).json();
  }

  async post(path, fields = {}, headers = {}) {
    const isForm = fields instanceof FormData;
    const body = isForm ? fields : JSON.stringify(fields);
    return (await this.send("POST", path, { body, headers: isForm ? headers : { ...headers, "content-type": "application/json" } })).json();
  }

  async blob(path, signal) {
    return (await this.send("GET", path, { signal })).blob();
  }

  // Server-sent events as [name, data] until the stream ends. EventSource could not send the key.
  async *events(path, signal) {
    const response = await this.send("GET", path, { signal, headers: { accept: "text/event-stream" } });
    let name = "", texts = [], rest = "";
    for await (const piece of pieces(response.body.pipeThrough(new TextDecoderStream()))) {
      const lines = (rest + piece).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = /^([^:]*):? ?(.*?)\r?$/.exec(line);
        if (field === "event") name = value;
        else if (field === "data") texts.push(value);
        else if (!field && !value) {
          if (texts.length) yield [name, JSON.parse(texts.join("\n"))];
          [name, texts] = ["", []];
        }
      }
    }
  }

  // Several requests may be refused at once: one question answers all.
  unlock(words) {
    this.asking ??= this.askKey(words).then(({ key, remember }) => {
      this.forgetKey();
      (remember ? localStorage : sessionStorage).setItem(KEY, key);
      this.asking = null;
    });
    return this.asking;
  }
}

// What is posted: fields as they are, or a form where there are files with them.
export function asBody(fields, files) {
  if (!Object.values(files).some(Boolean)) return fields;
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  for (const [name, file] of Object.entries(files)) if (file) form.append(name, file);
  return form;
}

async function readError(response) {
  const body = await response.json().catch(() => null); // a proxy's page, say
  return new ApiError(response.status, body?.error ?? { message: `The server answered ${response.status} ${response.statusText}` });
}

async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (let read; !(read = await reader.read()).done; ) yield read.value;
  } finally {
    reader.cancel().catch(() => {}); // it may have ended by itself
  }
}
