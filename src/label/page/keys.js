// What the page asks, and its keys.

export const QUESTION = {
  rank: "Put the responses in order, the best one first",
  score: "Score each response",
  pair: "Which response is better?",
};

export const KEYS = {
  rank: [["j k", "next, previous response"], ["1 – 9", "its place; equal places tie"],
    ["=", "the same place as the response before it"], ["0", "no place"]],
  score: [["Tab j k", "next, previous response"], ["1 – 9", "its score (0 is 10)"]],
  pair: [["← →", "left, right is better"], ["Shift ← →", "much better"], ["=", "a tie"], ["b", "both are bad"],
    ["j k", "next, previous response"]],
  all: [["Enter", "submit"], ["u", "back to the last answer, to change it"], ["s", "skip, with a reason"],
    ["f 1 – 4", "mark the response"], ["c", "comment"], ["Space", "scroll the responses together"],
    ["g", "guideline"], ["?", "keys"], ["Esc", "close, or leave an earlier answer"]],
};
