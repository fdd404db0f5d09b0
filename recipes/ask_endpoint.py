"""A teacher behind an OpenAI-compatible endpoint: top-k log-probabilities of the classes, a store of them, a student for the texts.

    python recipes/ask_endpoint.py reviews.jsonl --model gpt-4.1-mini --question "Is this review negative or positive?"

Each line of the file is {"text": ..., "label": ...}; the labels name the classes, and the model has to answer with one of them.
The client reads OPENAI_API_KEY and OPENAI_BASE_URL (`http://localhost:8000/v1` of vLLM or llama.cpp). Killed and started again, the
program asks only for what is missing. Needs `pip install 'fractionate[openai]'`.
"""

import argparse
import json
import os
from pathlib import Path

from openai import OpenAI

from fractionate import diagnose, distill
from fractionate.data import texts
from fractionate.models import find_model
from fractionate.records import Training
from fractionate.store import import_logprobs


def answered(file: Path) -> set[str]:
    """The ids that have an answer. A line that a killed program left unfinished is cut off."""
    if not file.exists():
        return set()
    whole = file.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        file.write_bytes(kept)
    return {json.loads(line)["custom_id"] for line in kept.splitlines()}


def main() -> None:
    """Ask, keep, diagnose, distil."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--question", default="Which class is this text?")
    parser.add_argument("--out", type=Path, default=Path("runs/endpoint"))
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--transfer", type=int, help="how many texts the teacher answers; a fifth of them if left out")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()

    parts = texts(options.file).parts(transfer=options.transfer, validation=None, test=None, seed=0)
    names = parts.transfer.class_names
    lines = options.file.read_text(encoding="utf-8").split("\n")  # the id of a text is the number of its line
    options.out.mkdir(parents=True, exist_ok=True)
    answers = options.out / "answers.jsonl"
    missing = sorted(set(parts.transfer.ids) - answered(answers), key=int)
    client = OpenAI()  # it waits and tries again by itself where the endpoint is busy
    with answers.open("a", encoding="utf-8") as file:
        for number, name in enumerate(missing, start=1):
            prompt = f"{options.question} Answer with one word: {', '.join(names)}.\n\n{json.loads(lines[int(name) - 1])['text']}"
            response = client.chat.completions.create(
                model=options.model,
                messages=[{"role": "user", "content": prompt}],
                logprobs=True,
                top_logprobs=options.top,
                max_completion_tokens=1,
                temperature=1.0,
            )
            file.write(json.dumps({"custom_id": name, "response": {"body": response.to_dict()}}) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(f"{number:,} of {len(missing):,} answers", end="\r", flush=True)

    store = import_logprobs(answers, parts.transfer, options.out / "store", named=options.model, k=options.top)
    diagnosis = diagnose(store, data=parts.transfer)
    _, run = distill(
        find_model("bag()")(parts.transfer.inputs.shape[1:], len(names)),
        parts.transfer,
        store,
        training=Training(steps=options.steps),
        test=parts.test,
        out=options.out / "training",
    )
    print(diagnosis, run, sep="\n\n")


if __name__ == "__main__":
    main()
