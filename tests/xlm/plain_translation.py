"""A plain translation model: one sentence at a time, no cache, no batch, no module, nothing of the library.

Works on a mapping of the original's parameter names to tensors, and follows the published descriptions of XLM:
post-norm layers with a cross-attention, generation that begins with `</s>`, beam search with an n-best list that stores
every ending among the 2N best candidates.
"""

import math
from itertools import pairwise

import torch
from torch.nn import functional as F

EOS, PAD = 1, 2


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights, name, x):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def attention(weights, name, heads, x, read, causal):
    """x (T, E) attends to read (S, E), one head after the other."""
    q, k, v = (
        linear(weights, f"{name}.q_lin", x),
        linear(weights, f"{name}.k_lin", read),
        linear(weights, f"{name}.v_lin", read),
    )
    width = x.shape[1] // heads
    parts = []
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(width)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        parts.append(scores.softmax(-1) @ v[:, columns])
    return linear(weights, f"{name}.out_lin", torch.cat(parts, 1))


def states(weights, heads, ids, lang, source=None):
    """(T, E) hidden states: of an encoder, or with `source` (S, E) of a decoder."""
    x = weights["embeddings.weight"][ids] + weights["position_embeddings.weight"][: len(ids)]
    if lang is not None:
        x = x + weights["lang_embeddings.weight"][lang]
    x = norm(weights, "layer_norm_emb", x)
    layer = 0
    while f"layer_norm1.{layer}.weight" in weights:
        x = norm(
            weights,
            f"layer_norm1.{layer}",
            x + attention(weights, f"attentions.{layer}", heads, x, x, source is not None),
        )
        if source is not None:
            read = attention(weights, f"encoder_attn.{layer}", heads, x, source, False)
            x = norm(weights, f"layer_norm15.{layer}", x + read)
        inner = F.gelu(linear(weights, f"ffns.{layer}.lin1", x))
        x = norm(weights, f"layer_norm2.{layer}", x + linear(weights, f"ffns.{layer}.lin2", inner))
        layer += 1
    return x


class PlainTranslator:
    """`encoder` and `decoder`: parameter names to tensors."""

    def __init__(self, encoder, decoder, heads):
        self.encoder, self.decoder, self.heads = encoder, decoder, heads

    def logits(self, source_ids, source_lang, target_ids, target_lang):
        """(T, V) scores of the next token after each of the target's."""
        source = states(self.encoder, self.heads, source_ids, source_lang)
        x = states(self.decoder, self.heads, target_ids, target_lang, source)
        return linear(self.decoder, "pred_layer.proj", x)

    def next_token(self, source_ids, source_lang, target_ids, target_lang):
        """(V,) log-probabilities."""
        return self.logits(source_ids, source_lang, target_ids, target_lang)[-1].log_softmax(-1)

    def greedy(self, source_ids, source_lang, target_lang, max_length):
        """Ids without the beginning and the end, and the smallest lead of a chosen token over the next best."""
        ids, margin = [EOS], math.inf
        while len(ids) < max_length - 1:
            best = self.next_token(source_ids, source_lang, torch.tensor(ids), target_lang).topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            if best.indices[0] == EOS:
                break
            ids.append(best.indices[0].item())
        return ids[1:], margin

    def beam(self, source_ids, source_lang, target_lang, max_length, beams, length_penalty, early_stopping):
        """[(score, ids), ...], best first, and the smallest difference between two scores that were ranked."""
        found, margin = [], math.inf
        running = [(0.0, [EOS])]
        while len(running[0][1]) < max_length:
            length = len(running[0][1])
            candidates = []
            for total, ids in running:
                scores = self.next_token(source_ids, source_lang, torch.tensor(ids), target_lang)
                candidates += [(total + score, ids, token) for token, score in enumerate(scores.tolist())]
            candidates.sort(key=lambda candidate: -candidate[0])
            ranked = [score for score, _, _ in candidates[: 2 * beams + 1]]
            margin = min(margin, *(one - other for one, other in pairwise(ranked)))
            candidates = candidates[: 2 * beams]
            if len(found) == beams:
                best_possible = candidates[0][0] / (max_length - 1) ** length_penalty
                if early_stopping or found[-1][0] >= best_possible:
                    break
            running = []
            for total, ids, token in candidates:
                if token == EOS or length + 1 == max_length:
                    found.append((total / length**length_penalty, ids[1:]))
                    found = sorted(found, key=lambda each: -each[0])[:beams]
                else:
                    running.append((total, [*ids, token]))
                if len(running) == beams:
                    break
            if not running:
                break
        scores = [score for score, _ in found]
        return found, min([margin, *(one - other for one, other in pairwise(scores))])
