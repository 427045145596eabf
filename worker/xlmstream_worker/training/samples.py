"""Text drawn from a causal model, for its card: plain forward calls with the library's cache, no serving code."""

import torch
from torch import Tensor

from xlmstream_worker.xlm import KVCache, XLMTokenizer, XLMWithLMHeadModel

EOS = 1


@torch.no_grad()
def sample_texts(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    prompt: str,
    lang: str,
    count: int,
    max_tokens: int,
    temperature: float = 0.7,
    first_seed: int = 1,
) -> list[str]:
    """Continuations of `prompt` with seeds first_seed, first_seed + 1, ...: the prompt with its ending, each up to the
    model's `</s>` or `max_tokens` new tokens. An empty prompt asks for a sentence out of nothing."""
    words = tokenizer.encode(prompt, add_special_tokens=False, lang=lang)
    lang_id = model.config.lang2id[lang]  # type: ignore[attr-defined]  # a field that multilingual models have
    texts = []
    for seed in range(first_seed, first_seed + count):
        generator = torch.Generator().manual_seed(seed)
        drawn = _draw(model, [EOS, *words], lang_id, max_tokens, temperature, generator)
        texts.append(tokenizer.decode([*words, *drawn]))
    return texts


def _draw(
    model: XLMWithLMHeadModel,
    prompt: list[int],
    lang_id: int,
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[int]:
    cache = KVCache()
    drawn: list[int] = []
    new = torch.tensor([prompt])
    while len(drawn) < min(max_tokens, model.config.max_position_embeddings - len(prompt)):
        seen = cache.get_seq_length()
        positions = torch.arange(seen, seen + new.shape[1])
        logits = model(new, langs=torch.full_like(new, lang_id), cache=cache, cache_position=positions).logits
        scores: Tensor = torch.softmax(logits[0, -1].double() / temperature, 0)
        token = int(torch.multinomial(scores, 1, generator=generator))
        if token == EOS:
            break
        drawn.append(token)
        new = torch.tensor([[token]])
    return drawn
