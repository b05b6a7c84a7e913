/** A child of an element: a node, or text. */
type Child = Node | string;

type Attributes = Record<string, string | number | boolean | null | undefined>;

/** Makes an element; `true` sets an empty attribute, `false`, `null` and `undefined` leave one out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.append(...children);
  return element;
}

const MP4 = document.createElement("video").canPlayType('video/mp4; codecs="avc1.42E01E"') !== "";

/** The address of a video in a format that this browser plays. */
export function playable(url: string): string {
  return MP4 ? url : `${url}.webm`;
}

/** The same for SVG. */
export function svg(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(element, attributes);
  element.append(...children);
  return element;
}

function setAttributes(element: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
}

/** Writes a text only where it changes, so that a live region does not repeat itself. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** A button whose key is shown on it and told to assistive technology. */
export function button(label: string, onclick: () => void, options: { key?: string; className?: string } = {}): HTMLButtonElement {
  const element = h("button", { type: "button", class: options.className }, label);
  if (options.key) {
    element.append(h("kbd", { "aria-hidden": "true" }, options.key));
    element.setAttribute("aria-keyshortcuts", SHORTCUT_NAMES[options.key] ?? options.key);
  }
  element.addEventListener("click", onclick);
  return element;
}

const SHORTCUT_NAMES: Record<string, string> = { "⏎": "Enter", space: "Space" };

export function prefersReducedMotion(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
