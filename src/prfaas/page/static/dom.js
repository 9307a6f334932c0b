// Elements in one call. Text is always text: nothing from outside becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child != null));
}

// Sets text only where it changed, so that a selection and a screen reader are left in peace.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function table(element, caption, heads, rows) {
  const head = (text, scope) => (text === "" ? h("td") : h("th", { scope }, text)); // An empty one heads nothing.
  const cells = (row) => row.map((cell, i) => (i === 0 ? head(cell, "row") : h("td", {}, cell)));
  replace(
    element,
    h("caption", { class: "sr-only" }, caption),
    h("thead", {}, h("tr", {}, heads.map((text) => head(text, "col")))),
    h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))),
  );
}

export function legend(element, items) {
  replace(element, items.map(([swatch, text]) => h("li", {}, h("span", { class: `swatch ${swatch}`, "aria-hidden": "true" }), text)));
}
