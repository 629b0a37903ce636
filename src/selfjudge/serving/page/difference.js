// What has changed between two texts, word by word.

const MOST_CELLS = 4e6;

/**
 * Returns pieces [kind, text] that tell how `before` became `after`; kind is "same", "gone" or "new".
 *
 * The longest common subsequence of words and the spaces between them. Of texts too long for its table what lies
 * between their common beginning and end counts as changed.
 */
export function difference(before, after) {
  const a = words(before);
  const b = words(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const middle = changed(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const same = (part) => part.map((word) => ["same", word]);
  return joined([...same(a.slice(0, start)), ...middle, ...same(a.slice(a.length - end))]);
}

function words(text) {
  return text.match(/\s+|\S+/g) ?? [];
}

function changed(a, b) {
  if (a.length * b.length > MOST_CELLS) return [["gone", a.join("")], ["new", b.join("")]];
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i * width + j] = a[i] === b[j]
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const pieces = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      pieces.push(["same", a[i]]);
      i += 1;
      j += 1;
    } else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      pieces.push(["gone", a[i]]);
      i += 1;
    } else {
      pieces.push(["new", b[j]]);
      j += 1;
    }
  }
  return pieces;
}

/** Joins neighbours of a kind. Space between two changes changes with them: a changed phrase is one piece. */
function joined(pieces) {
  const runs = [];
  let [gone, made, space] = ["", "", ""];
  const flush = (same) => {
    for (const [kind, text] of [["gone", gone], ["new", made], ["same", space + same]]) {
      if (text === "") continue;
      if (runs.at(-1)?.[0] === kind) runs.at(-1)[1] += text;
      else runs.push([kind, text]);
    }
    [gone, made, space] = ["", "", ""];
  };
  for (const [kind, text] of pieces) {
    if (kind === "same") {
      if (/^\s+$/.test(text) && (gone || made)) space += text;
      else flush(text);
      continue;
    }
    gone += space + (kind === "gone" ? text : "");
    made += space + (kind === "new" ? text : "");
    space = "";
  }
  flush("");
  return runs;
}
