"""Train the small base model and write it to `small_base/`: `make small-base`, about three minutes on one core.

A Llama of a million weights, trained from scratch on our sample rows alone. Its stored weights are those that training
in 16 bits left, so it is a clean base to ask what a merge onto original or onto dequantized weights gives: the built-in
model comes from a 4-bit file. Nothing is read from the held-out files but the losses that are reported at the end.
"""

import json
import math
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import torch

from hermes_nb import runs, runtime, templates

HERE = Path(__file__).resolve().parent
OUT = HERE / "small_base"
VOCABULARY = 2048
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
# every linear layer is a whole number of NF4's blocks of 64 weights
SHAPE = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
SEED, EPOCHS, ROWS_PER_STEP, LEARNING_RATE, WARMUP = 0, 6, 16, 3e-3, 50
WEIGHT_DECAY, DROPOUT = 0.1, 0.1


def read(name: str) -> list[dict]:
    """The rows of one sample file."""
    with open(HERE / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def chat(*turns: str, system: str = "") -> list[dict]:
    """Messages from turns of user and assistant in alternation, after a system turn where there is one."""
    start = [{"role": "system", "content": system}] if system else []
    return start + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def conversations() -> list[list[dict]]:
    """All that the model is trained on, each conversation once: every style of answer, so that none is the rule yet.

    Left out: held-out files, rows with planted faults, answers that the built-in model wrote, answers marked wrong,
    poor or unsafe, and `rejected` where it is the card of another question.
    """
    found = [row["messages"] for row in read("conversations_train.jsonl")]
    for row in read("pairs_train.jsonl"):
        sides = ("chosen",) if row["id"].startswith("c-") else ("chosen", "rejected")
        found += [chat(row["question"], row[side], system=row["system"]) for side in sides]
    for row in read("topics_train.jsonl"):
        found += [chat(row["question"], row[style]) for style in ("prose", "vague", "evasive")]
    for name in ("length_biased.jsonl", "pairs_own_answers_train.jsonl"):
        found += [chat(row["question"], row["chosen"], system=row["system"]) for row in read(name)]
    for row in read("dialogues.jsonl"):
        found += [chat(*row["turns"], row[grade]) for grade in ("good", "fair")]
    for row in read("safety.jsonl"):
        found += [chat(row["prompt"], row[f"response_{i}"]) for i in (0, 1) if row[f"is_response_{i}_safe"]]
    return list({json.dumps(messages): messages for messages in found}.values())


def make_tokenizer(texts: list[str]):
    """A byte-level BPE tokenizer learned from `texts`, with the project's ChatML template and stop token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # every byte, so that no text is unknown
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|im_end|>", model_max_length=1024
    )
    return templates.fit(tokenizer, "chatml")


def new_model(tokenizer):
    """The model before training, in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        **SHAPE, vocab_size=len(tokenizer), tie_word_embeddings=True, attention_dropout=DROPOUT, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(model, rows: list[list[int]], pad: int) -> list[float]:
    """Train on whole conversations: fp32 master weights, arithmetic in bf16. Returns the loss of every step."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
    dice, losses = random.Random(SEED), []
    order = [dice.sample(rows, len(rows)) for _ in range(EPOCHS)]
    steps = [epoch[i : i + ROWS_PER_STEP] for epoch in order for i in range(0, len(epoch), ROWS_PER_STEP)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * n / len(steps)))
    )
    model.train()
    for step in steps:
        ids, labels = padded(step, pad)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def padded(rows: list[list[int]], pad: int):
    """Ids and labels of `rows`, both (rows, widest); what is padding counts for nothing."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, torch.tensor([row + [-100] * (width - len(row)) for row in rows])


def answers(tokenizer, talks: list[list[dict]]) -> list[tuple[list[int], list[int]]]:
    """Ids of each conversation, and for each id 1 where it belongs to an answer or its stop token."""
    return [templates.conversation_ids(tokenizer, messages) for messages in talks]


def unigram(train_rows, held_out_rows) -> float:
    """Loss (nats a token) on held-out answers of a model that knows how often each token occurs and nothing else."""
    counts = Counter(token for ids, mask in train_rows for token, m in zip(ids, mask, strict=True) if m)
    total = sum(counts.values()) + VOCABULARY  # one is added to every count: no token is impossible
    wanted = [token for ids, mask in held_out_rows for token, m in zip(ids, mask, strict=True) if m]
    return -sum(math.log((counts[token] + 1) / total) for token in wanted) / len(wanted)


def answer_loss(model, rows) -> float:
    """Loss (nats a token) of `model` on the answers' tokens of `rows`."""
    total, count = 0.0, 0
    model.eval()
    for ids, mask in rows:
        with torch.inference_mode():
            logps = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        kept = torch.tensor(mask[1:], dtype=torch.bool)
        total -= logps.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0][kept].sum().item()
        count += int(kept.sum())
    return total / count


def held_out() -> list[list[dict]]:
    """Conversations that were not trained on: the held-out ones, and the held-out pairs with their chosen answer."""
    pairs = [chat(r["question"], r["chosen"], system=r["system"]) for r in read("pairs_held_out.jsonl")]
    return [row["messages"] for row in read("conversations_held_out.jsonl")] + pairs


def write(model, tokenizer, told: dict) -> None:
    """Write the model folder; its README.md is kept."""
    OUT.mkdir(exist_ok=True)
    for file in OUT.iterdir():
        if file.name != "README.md":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    model.save_pretrained(OUT)
    tokenizer.save_pretrained(OUT)
    (OUT / "training.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for file in OUT.iterdir():
        file.chmod(0o644)


def main() -> None:
    """Tokenizer, training, the two losses, the folder."""
    runtime.quiet()
    torch.set_num_threads(1)  # sums in another order would give other weights
    talks = conversations()
    tokenizer = make_tokenizer([m["content"] for messages in talks for m in messages])
    rows, kept_out = answers(tokenizer, talks), answers(tokenizer, held_out())
    model, begun = new_model(tokenizer), time.perf_counter()
    losses = train(model, [ids for ids, _ in rows], tokenizer.pad_token_id)
    seconds = time.perf_counter() - begun
    model = model.bfloat16()
    model.generation_config.do_sample = False
    model.config.attention_dropout = (
        0.0  # who trains on from here starts without: DPO's policy must equal its reference
    )
    told = {
        "parameters": model.num_parameters(), "conversations": len(rows), "tokens": sum(len(ids) for ids, _ in rows),
        "epochs": EPOCHS, "steps": len(losses), "rows_per_step": ROWS_PER_STEP, "learning_rate": LEARNING_RATE,
        "seed": SEED, "seconds": round(seconds, 1), "first_loss": round(losses[0], 4),
        "last_loss": round(sum(losses[-20:]) / 20, 4), "train_answer_loss": 0.0, "held_out_answer_loss": 0.0,
        "held_out_unigram_loss": round(unigram(rows, kept_out), 4),
        "held_out_answer_tokens": sum(sum(mask) for _, mask in kept_out),
        "chip": runtime.machine().chip, "versions": runs.versions(),
    }  # fmt: skip
    write(model, tokenizer, told)
    model = model.float()  # bf16 numbers, measured in exact arithmetic
    told["train_answer_loss"] = round(answer_loss(model, rows), 4)
    told["held_out_answer_loss"] = round(answer_loss(model, kept_out), 4)
    (OUT / "training.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in told.items() if k != "versions"}))


if __name__ == "__main__":
    main()
