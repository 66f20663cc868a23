"""Why two greedy texts of one model differ: the token at which they part, and how near the two candidates' logits are there.

Both programs take the most probable token. Where the two largest logits are nearer to each other than the rounding errors of their
computation, either may be the largest. The model is computed here with transformers in float64; the rounding error is measured as what
float32 makes of the same logits, by the same program.
"""
import dataclasses

import torch
import transformers

# Candidates for the next token that are looked at.
CANDIDATES = 50
# Logits may differ by this many times the measured error of float32: the programs add in another order than transformers does here.
ERRORS = 16


@dataclasses.dataclass
class Parting:
    """Where two texts part."""
    # The position in the answer, in tokens.
    position: int
    # The two candidates.
    tokens: list
    # The distance of their logits in float64, and the largest error of float32 among the candidates.
    gap: float
    error: float

    def is_tie(self):
        return self.gap <= ERRORS * self.error

    def __str__(self):
        return f"token {self.position}, {self.tokens[0]!r} or {self.tokens[1]!r}: logits {self.gap:.1e} apart, error of float32 {self.error:.1e}"


def tokenizer_of(folder):
    """That of tokenizer.json. AutoTokenizer would split texts as the models of the family do, whatever that file says."""
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


class Ties:
    """A model that explains."""

    def __init__(self, folder):
        self.tokenizer = tokenizer_of(folder)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.exact = load(folder, dtype=torch.float64).eval()
        self.rounded = load(folder, dtype=torch.float32).eval()

    def parting(self, prompt, one, other):
        """Follows the most probable tokens until only one of two texts does; None if they never part."""
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        answer, cache, nearest = [], None, {}
        new = ids
        while len(answer) <= len(one) + len(other) + 64:
            with torch.no_grad():
                out = self.exact(torch.tensor([new]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = out.past_key_values, out.logits[0, -1]
            largest = logits.topk(CANDIDATES).indices.tolist()
            best = largest[0]
            for text in (one, other):
                # Texts do not say their tokens: an earlier near tie between tokens of one text may be where they part.
                rival = next((token for token in largest[1:] if self.fits([*answer, token], text)), None)
                if rival is not None:
                    gap = (logits[best] - logits[rival]).item()
                    if text not in nearest or gap < nearest[text][0]:
                        nearest[text] = gap, list(answer), best, rival
            left = [text for text in (one, other) if not self.fits([*answer, best], text)]
            if left:
                found = [nearest.get(text) for text in left]
                return None if None in found else self.measured(ids, *max(found)[1:])
            answer.append(best)
            new = [best]
        return None

    def fits(self, tokens, text):
        """Whether a text may begin with these tokens, or have been cut among them. The last character may be incomplete."""
        said = self.tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
        if tokens[-1] in self.tokenizer.all_special_ids:
            return said == text
        return text.startswith(said) or said.startswith(text)

    def measured(self, ids, answer, best, rival):
        whole = torch.tensor([[*ids, *answer]])
        with torch.no_grad():
            exact, rounded = (model(whole, logits_to_keep=1).logits[0, -1].double() for model in (self.exact, self.rounded))
        largest = exact.topk(CANDIDATES).indices
        error = (exact - rounded)[largest].abs().max().item()
        # Models have more ids than their tokenizers; a random model may find one of those the most probable.
        words = [f"id {token}, without a token" if self.tokenizer.convert_ids_to_tokens(token) is None else self.tokenizer.decode([token])
                 for token in (best, rival)]
        return Parting(len(answer), words, (exact[best] - exact[rival]).item(), error)
