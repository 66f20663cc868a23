// Building elements. Texts are set as textContent only: nothing in them is ever interpreted.

/** An element with properties and children; strings become text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name === "on") Object.entries(value).forEach(([event, run]) => made.addEventListener(event, run));
    else if (name === "text") made.textContent = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The letter of a response. */
export const letter = (index) => String.fromCharCode(65 + index);

const OVERRIDES = /[\u202a\u202b\u202d\u202e]/;

/** A line of text. Characters that turn the direction of what follows are shown by their number. */
function line(parent, text) {
  if (!OVERRIDES.test(text)) {
    parent.append(text);
    return;
  }
  for (const part of text.split(/([\u202a\u202b\u202d\u202e])/)) {
    if (OVERRIDES.test(part)) {
      const code = "U+" + part.codePointAt(0).toString(16).toUpperCase();
      parent.append(element("span", { class: "control", "data-code": code, title: code, text: part }));
    } else {
      parent.append(part);
    }
  }
}

/** A text as it is: white space kept, paragraphs in the direction of their own script, code fences
 *  monospaced. Its textContent is the text, character for character. */
export function text(whole) {
  const box = element("div", { class: "text" });
  const lines = whole.split("\n");
  let fence = null;
  let block = [];
  const end = (className) => {
    if (block.length === 0) return;
    const shown = element("div", { class: className, dir: className === "code" ? "ltr" : "auto" });
    line(shown, block.join(""));
    box.append(shown);
    block = [];
  };
  lines.forEach((own, index) => {
    const full = index + 1 < lines.length ? own + "\n" : own;
    const opens = /^ {0,3}(`{3,}|~{3,})/.exec(own);
    if (fence === null && opens) {
      end("prose");
      fence = opens[1];
      block.push(full);
    } else if (fence !== null) {
      block.push(full);
      const closes = opens && opens[1][0] === fence[0] && opens[1].length >= fence.length;
      if (closes && own.trim() === opens[1]) {
        end("code");
        fence = null;
      }
    } else {
      block.push(full);
      if (own.trim() === "") end("prose");
    }
  });
  end(fence === null ? "prose" : "code");
  return box;
}

const KNOWN = new Set(["h2", "h3", "h4", "p", "blockquote", "pre", "ol", "ul", "li", "table", "tr", "td", "em",
  "strong", "s", "span", "a", "code", "br", "hr"]);

/** The guideline, from the tree that the service makes of its Markdown. */
export function tree(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return document.createTextNode(node);
    const made = document.createElement(KNOWN.has(node.tag) ? node.tag : "span");
    if (node.tag === "a" && /^(https?:|mailto:)/i.test(node.href)) {
      made.href = node.href;
      made.target = "_blank";
      made.rel = "noopener noreferrer";
    }
    made.append(...tree(node.children));
    return made;
  });
}

/** The turns of a prompt. */
export function prompt(turns) {
  const isPlain = turns.length === 1 && turns[0].role === "user";
  return turns.map((turn) => element("div", { class: "turn " + turn.role },
    element("span", { class: "role", text: isPlain ? "Prompt" : turn.role }), text(turn.content)));
}

/** Panes that are scrolled together, by the same distance. */
export function scrollTogether(panes) {
  let leader = null;
  let timer = 0;
  for (const pane of panes) {
    pane.addEventListener("scroll", () => {
      if (leader !== null && leader !== pane) return;
      leader = pane;
      clearTimeout(timer);
      timer = setTimeout(() => { leader = null; }, 120);
      for (const other of panes) if (other !== pane) other.scrollTop = pane.scrollTop;
    }, { passive: true });
  }
}
