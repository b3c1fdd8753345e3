// Fields: inputs as the server describes them in /v1/models.

// A field with its label. `field` is an entry of a model's `fields`.
export function boxOf(field) {
  const box = Object.assign(document.createElement("div"), { className: "field" });
  box.dataset.field = field.name;
  box.append(Object.assign(document.createElement("label"), { htmlFor: field.name, textContent: field.title }), inputOf(field));
  return box;
}

export function inputOf({ name, type, help, minimum, step, default_rule: rule, choices = [] }, label = null) {
  if (choices.length) {
    const select = Object.assign(document.createElement("select"), { id: name, name, title: help });
    select.append(new Option(rule, ""), ...choices.map(({ value, help: about }) => new Option(about ? `${value}: ${about}` : value, value)));
    return select;
  }
  if (type === "numbers") return Object.assign(document.createElement("input"), { id: name, name, title: help, placeholder: rule });
  const isText = type === "string";
  const input = document.createElement(isText ? "textarea" : "input");
  Object.assign(input, { id: name, name, title: help, placeholder: isText ? help : rule });
  if (isText) input.rows = 2;
  else Object.assign(input, { type: "number", min: minimum ?? "", step: step ?? (type === "integer" ? 1 : "any") });
  if (!isText) input.inputMode = type === "integer" ? "numeric" : "decimal";
  if (label) input.setAttribute("aria-label", label);
  return input;
}

const KIND = { integer: "a whole number", number: "a number", numbers: "numbers with commas between them" };

// What the server says of a field, in the words of the form: without its name in front, and others by their labels.
export function problemWords({ message, param }, fields) {
  const field = fields.find(({ name }) => name === param?.split(".")[0]); // "sigmas.1" is the second one of them
  const own = message.split("; ").find((one) => one.startsWith(`${param}: `))?.slice(param.length + 2) ?? message;
  const isOfKind = /\b(integer|number)\b/.test(own) && /\b(is not|is no|valid|parse|expected|must be)\b/i.test(own);
  if (field && KIND[field.type] && isOfKind && !/multiple|finite/.test(own)) return `Write ${KIND[field.type]}.`;
  if (own === "is not a field of this call") return "This server knows no such setting.";
  const named = fields.reduce((words, { name, title }) => words.replaceAll(new RegExp(`\\b${name}\\b`, "g"), `“${title}”`), own);
  const [, said, nearest] = /^(.*?)(?: \(nearest: (.*)\))?$/s.exec(named);
  const whole = said.replace(/ is not \d+k\+1 \(([^)]*) \.\.\.\)/, " does not go: the model makes $1 and so on").replace(/^should /, "This should ").replace(/^[a-z]/, (letter) => letter.toUpperCase());
  return `${whole.replace(/[.]*$/, "")}.${nearest ? ` Nearest: ${nearest}.` : ""}`;
}
