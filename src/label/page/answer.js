// An answer that is being given: what was pressed, without anything of the page.

/** The place of a response in the order, from 1, without gaps: 1, 3, 3 becomes 1, 2, 2. */
export function dense(places) {
  const distinct = [...new Set(places.filter((place) => place !== null))].sort((a, b) => a - b);
  return places.map((place) => (place === null ? null : distinct.indexOf(place) + 1));
}

/** An empty answer about `count` responses. */
export function empty(count) {
  return {
    values: Array(count).fill(null), // places or scores
    strength: null, // of a pair
    bothBad: false,
    flags: Array.from({ length: count }, () => []),
    comment: "",
    seconds: 0,
  };
}

/** The responses without a value. */
export function missing(answer) {
  return answer.values.flatMap((value, index) => (value === null ? [index] : []));
}

/** The responses in order: a list of tied ones for each place. */
export function tiers(answer) {
  const places = dense(answer.values);
  const count = Math.max(0, ...places.map((place) => place ?? 0));
  return Array.from({ length: count }, (_, tier) =>
    places.flatMap((place, index) => (place === tier + 1 ? [index] : [])));
}

/** Moves a response to tie with those of a tier, or to a new tier before it. */
export function move(answer, index, tier, isNew) {
  const before = tiers(answer).map((tied) => tied.filter((other) => other !== index));
  if (isNew) before.splice(tier, 0, [index]);
  else before[tier].push(index);
  const after = before.filter((tied) => tied.length > 0);
  answer.values = answer.values.map(() => null);
  after.forEach((tied, place) => tied.forEach((other) => { answer.values[other] = place + 1; }));
}

/** Chooses the better one of a pair: 0, 1, or null for a tie. */
export function choose(answer, better, strength, bothBad) {
  answer.values = better === null ? [1, 1] : better === 0 ? [1, 2] : [2, 1];
  answer.strength = better === null ? null : strength;
  answer.bothBad = bothBad;
}

/** What is sent. */
export function sent(answer, ask, skipped) {
  const body = { flags: answer.flags, both_bad: false, seconds: Math.round(answer.seconds * 10) / 10 };
  if (answer.comment.trim()) body.comment = answer.comment.trim();
  if (skipped) return { ...body, skipped };
  if (ask === "score") return { ...body, scores: answer.values };
  body.ranks = dense(answer.values);
  if (ask === "pair") {
    body.both_bad = answer.bothBad;
    if (answer.strength) body.strength = answer.strength;
  }
  return body;
}

/** An answer that was sent before. */
export function received(body, count) {
  const answer = empty(count);
  answer.values = body.ranks ?? body.scores ?? answer.values;
  answer.strength = body.strength ?? null;
  answer.bothBad = body.both_bad;
  if (body.flags.length === count) answer.flags = body.flags;
  answer.comment = body.comment ?? "";
  answer.seconds = body.seconds;
  return answer;
}
